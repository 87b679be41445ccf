//! A name server, and processes that ask it.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use tokio::net::UdpSocket;
use tokio::process::Command;
use tokio::sync::watch;

use super::{skipped, soon};

/// Answers questions for names that begin with `works` with 127.0.0.1, and no others.
pub struct NameServer {
    addr: Ipv4Addr,
    unanswered: watch::Receiver<usize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl NameServer {
    /// One on a loopback address of its own, as its port is no choice. None, with a line that says
    /// why, where it may not be had.
    pub async fn start() -> Option<Self> {
        let addr = Ipv4Addr::from(0x7f00_0000 | rand::random_range(0x1_0000..0xff_0000));
        let socket = match UdpSocket::bind((addr, 53)).await {
            Ok(socket) => socket,
            Err(error) => {
                skipped(&format!("port 53 cannot be had: {error}"));
                return None;
            }
        };
        if let Err(error) = in_namespace(Command::new("true"), Path::new("/dev/null"))
            .status()
            .await
        {
            skipped(&format!("a mount namespace cannot be had: {error}"));
            return None;
        }
        let (count, unanswered) = watch::channel(0);
        let task = tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                match answer(&buffer[..length]) {
                    Some(answer) => drop(socket.send_to(&answer, from).await),
                    None => count.send_modify(|count| *count += 1),
                }
            }
        });
        Some(Self {
            addr,
            unanswered,
            task,
        })
    }

    /// Has a command ask this server alone; `directory` takes the file that says so.
    pub fn answers(&self, command: &mut Command, directory: &Path) {
        let path = directory.join("resolv.conf");
        let text = format!("nameserver {}\noptions timeout:30 attempts:5\n", self.addr);
        std::fs::write(&path, text).unwrap();
        prepare(command, &path);
    }

    /// Waits until so many questions have come that are not answered.
    pub async fn unanswered(&self, count: usize) {
        let mut unanswered = self.unanswered.clone();
        let enough = unanswered.wait_for(|now| *now >= count);
        let _ = soon("questions", enough).await.unwrap();
    }
}

/// What is answered to a question for an IPv4 address; to other types that there is none.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let name = question.get(12..)?;
    if !name[1..].starts_with(b"works") {
        return None;
    }
    let end = 12 + name.iter().position(|byte| *byte == 0)? + 5;
    let is_a = question[end - 4..end] == [0, 1, 0, 1];
    let mut answer = question[..end].to_vec();
    // A response, recursion available; one question, one answer at most, nothing else.
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    if is_a {
        // The name as at offset 12, type A, class IN, 0 s, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}

fn in_namespace(mut command: Command, resolv_conf: &Path) -> Command {
    prepare(&mut command, resolv_conf);
    command
}

/// Gives a command a `/etc/resolv.conf` of its own.
fn prepare(command: &mut Command, resolv_conf: &Path) {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    let source = CString::new(resolv_conf.as_os_str().as_bytes()).unwrap();
    let done = |result: libc::c_int| match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    let enter = move || {
        let none = std::ptr::null();
        // SAFETY: system calls alone, with strings that end with a zero.
        unsafe {
            done(libc::unshare(libc::CLONE_NEWNS))?;
            let private = libc::MS_REC | libc::MS_PRIVATE;
            done(libc::mount(none, c"/".as_ptr(), none, private, none.cast()))?;
            let target = c"/etc/resolv.conf".as_ptr();
            done(libc::mount(
                source.as_ptr(),
                target,
                none,
                libc::MS_BIND,
                none.cast(),
            ))
        }
    };
    // SAFETY: as above, so it may run between fork and exec.
    unsafe { command.pre_exec(enter) };
}
