//! Log: lines on standard error, written by a thread of their own.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::fmt::{FormatFields, MakeWriter};

/// Most bytes that wait to be written.
const LIMIT: usize = 16 << 20;
/// Most bytes that are written at once; a longer line is written alone.
const CHUNK: usize = 64 * 1024;
/// Longest time to write the last lines.
const LAST: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Human,
    Json,
}

/// Log, until dropped: then it writes the last lines.
pub(super) struct Log(Arc<Queue>);

/// Queue of lines that wait to be written, as many at once as there are.
///
/// Neither sessions nor their threads wait for whoever reads the log.
#[derive(Default)]
struct Queue {
    lines: Mutex<Lines>,
    /// Signal to the thread that there is something to do.
    work: Condvar,
    ended: Condvar,
}

#[derive(Default)]
struct Lines {
    chunks: VecDeque<Vec<u8>>,
    /// Bytes that wait or are being written.
    len: usize,
    /// Number of lines for which there was no room.
    dropped: u64,
    /// Set while the thread waits to be woken.
    asleep: bool,
    closed: bool,
    ended: bool,
}

/// Writer of complete lines to the queue.
struct Sink {
    queue: Arc<Queue>,
    format: Format,
}

/// Starts the log, with the filter in `RUST_LOG`.
pub(super) fn start(format: Format) -> Log {
    let queue = Arc::<Queue>::default();
    let writing = queue.clone();
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || writing.run(io::stderr()))
        // invariant: there is nobody yet who has taken what it needs.
        .expect("a thread for the log");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_ansi(io::stderr().is_terminal())
        .with_env_filter(filter)
        // No target in lines: the module would be taken for the `target` of a session, its server.
        .with_target(false)
        .with_writer(Sink {
            queue: queue.clone(),
            format,
        });
    match format {
        Format::Human => log.fmt_fields(Escaping).init(),
        Format::Json => log.json().flatten_event(true).init(),
    }
    Log(queue)
}

impl Drop for Log {
    fn drop(&mut self) {
        let mut lines = self.0.lock();
        lines.closed = true;
        self.0.work.notify_one();
        // The wait ends whether the lines have been written or not.
        let _ended = self
            .0
            .ended
            .wait_timeout_while(lines, LAST, |lines| !lines.ended);
    }
}

impl Queue {
    /// Adds a line, if there is room for it.
    fn push(&self, line: &[u8]) {
        let mut lines = self.lock();
        if lines.len + line.len() > LIMIT {
            lines.dropped += 1;
            return;
        }
        lines.len += line.len();
        match lines.chunks.back_mut() {
            Some(last) if last.len() + line.len() <= CHUNK => last.extend_from_slice(line),
            _ => lines.chunks.push_back(line.to_vec()),
        }
        let asleep = mem::take(&mut lines.asleep);
        drop(lines);
        if asleep {
            self.work.notify_one();
        }
    }

    /// Writes lines until the log is closed and all are written.
    fn run(&self, mut to: impl Write) {
        let mut lines = self.lock();
        loop {
            if let Some(chunk) = lines.chunks.pop_front() {
                drop(lines);
                // A failure could be told to nobody.
                let _ = to.write_all(&chunk);
                lines = self.lock();
                lines.len -= chunk.len();
                if lines.dropped > 0 && lines.len < LIMIT / 2 {
                    let dropped = mem::take(&mut lines.dropped);
                    drop(lines);
                    tracing::warn!(lines = dropped, "the log was not read, lines dropped");
                    lines = self.lock();
                }
            } else if lines.closed {
                lines.ended = true;
                self.ended.notify_all();
                return;
            } else {
                lines.asleep = true;
                let woken = self.work.wait(lines);
                lines = woken.unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        // Nothing panics while it is held.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

impl Write for &Sink {
    /// Takes one whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.format {
            Format::Human => self.queue.push(line),
            Format::Json => self.queue.push(&escape_json(line)),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns whether a character shows something else than itself.
///
/// That is: control characters, separators of lines, and what changes the direction of text. Much
/// of the log is what clients said, which is to stay on its line and to tell a terminal nothing.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}')
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Escapes deceptive characters in a line of JSON, in which they stand in strings only.
///
/// The JSON formatter has escaped the control characters of ASCII, except DEL.
fn escape_json(line: &[u8]) -> Cow<'_, [u8]> {
    let plain = |byte: &u8| *byte < 0x7f;
    let Some(text) = str::from_utf8(line)
        .ok()
        .filter(|_| !line.iter().all(plain))
    else {
        return line.into();
    };
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if is_deceptive(c) && c != '\n' {
            // Infallible.
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
    }
    escaped.into_bytes().into()
}

/// Formatter of fields and messages that escapes deceptive characters.
struct Escaping;

/// Writer that escapes deceptive characters.
struct Escaped<'a>(Writer<'a>);

impl<'a> FormatFields<'a> for Escaping {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'a>, fields: R) -> fmt::Result {
        let mut escaped = Escaped(writer);
        DefaultFields::new().format_fields(Writer::new(&mut escaped), fields)
    }
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match is_deceptive(c) {
                true => write!(self.0, "{}", c.escape_default())?,
                false => self.0.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Reader that takes a chunk only when it is allowed to.
    struct Reader {
        allowed: mpsc::Receiver<()>,
        read: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.allowed.recv();
            let _ = self.read.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_nobody_reads_is_bounded_and_the_rest_is_whole() {
        let queue = Arc::<Queue>::default();
        let (allow, allowed) = mpsc::channel();
        let (read, written) = mpsc::channel();
        let writing = thread::spawn({
            let queue = queue.clone();
            move || queue.run(Reader { allowed, read })
        });
        let line = |n: usize| format!("{n:08}{}\n", "x".repeat(1015));
        let fit = LIMIT / 1024;
        (0..fit + 100).for_each(|n| queue.push(line(n).as_bytes()));
        let waiting = {
            let lines = queue.lock();
            (lines.len, lines.dropped)
        };
        assert_eq!(waiting, (LIMIT, 100));
        // From here on, the reader takes every chunk at once.
        drop(allow);
        let log = Log(queue);
        drop(log);
        writing.join().unwrap();
        let chunks: Vec<_> = written.iter().collect();
        assert!(chunks[1..].iter().all(|chunk| chunk.len() <= CHUNK));
        assert!(
            chunks.len() <= 1 + fit.div_ceil(CHUNK / 1024),
            "{}",
            chunks.len()
        );
        let expected: String = (0..fit).map(line).collect();
        assert!(chunks.concat() == expected.as_bytes());
    }

    #[test]
    fn deceptive_characters_are_escaped() {
        let deceptive = "\u{7f}\u{85}\u{9b}\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\u{2069}";
        let object = serde_json::json!({"text": format!("a{deceptive}\u{1b}\r\né漢")});
        let line = format!("{object}\n");
        let escaped = String::from_utf8(escape_json(line.as_bytes()).into()).unwrap();
        assert_eq!(escaped.trim_end().chars().find(|c| is_deceptive(*c)), None);
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&escaped).unwrap(),
            object
        );
        assert!(escaped.contains("é漢") && escaped.ends_with('\n'));
        let mut human = String::new();
        let text = format!("{deceptive}\u{1b}\r\né漢");
        Escaped(Writer::new(&mut human)).write_str(&text).unwrap();
        assert_eq!(human.chars().find(|c| is_deceptive(*c)), None);
        assert!(human.ends_with("\\u{1b}\\r\\né漢"), "{human}");
    }
}
