//! Panics as lines of the log.

use std::panic::PanicHookInfo;

/// Sets a panic hook that writes panics to the log.
pub(super) fn log() {
    std::panic::set_hook(Box::new(tell));
}

fn tell(panic: &PanicHookInfo<'_>) {
    let at = panic.location().map(tracing::field::display);
    let error = panic.payload_as_str().unwrap_or("of an unknown kind");
    tracing::error!(at, error, "panicked");
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::panic::{catch_unwind, set_hook, take_hook};
    use std::sync::{Arc, Mutex};
    use std::thread;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_is_one_line() {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_writer(move || writer.clone())
            .finish();
        let (mine, before) = (thread::current().id(), take_hook());
        // Panics of other tests go to the hook that was there before.
        set_hook(Box::new(move |panic| {
            if thread::current().id() == mine {
                tell(panic);
            } else {
                before(panic);
            }
        }));
        let panicked = tracing::subscriber::with_default(log, || {
            let client = "two\nlines";
            catch_unwind(|| panic!("said {client}"))
        });
        drop(take_hook());
        assert!(panicked.is_err());
        let lines = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(lines.lines().count(), 1, "{lines}");
        let line: serde_json::Value = serde_json::from_str(&lines).unwrap();
        assert_eq!(line["message"], "panicked");
        assert_eq!(line["error"], "said two\nlines");
        let at = line["at"].as_str().unwrap();
        assert!(at.starts_with("src/cli/panics.rs:"), "{at}");
    }
}
