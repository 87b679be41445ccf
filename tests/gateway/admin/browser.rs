//! A browser, driven over a pipe.

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::process::{Child, Command};

use crate::common::{skipped, soon};

/// A page in a browser of its own; the browser is killed when it is dropped.
pub struct Browser {
    to: Sender,
    from: BufReader<Receiver>,
    asked: u64,
    page: Option<String>,
    _child: Child,
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser. `None`, and a word about it, where none is installed.
    pub async fn start() -> Option<Self> {
        let profile = tempfile::tempdir().unwrap();
        let (theirs_in, to) = std::io::pipe().unwrap();
        let (from, theirs_out) = std::io::pipe().unwrap();
        let (to, from) = (OwnedFd::from(to), OwnedFd::from(from));
        let mut command = Command::new("chromium");
        command
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
            ])
            .args([
                "--disable-dev-shm-usage",
                "--disable-extensions",
                "--remote-debugging-pipe",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let (input, output) = (theirs_in.as_raw_fd(), theirs_out.as_raw_fd());
        let place = move || {
            // SAFETY: these calls are safe between fork and exec, and touch descriptors only.
            let placed = unsafe {
                // Out of the way first: one may be where the other goes.
                let (input, output) = (
                    libc::fcntl(input, libc::F_DUPFD, 10),
                    libc::fcntl(output, libc::F_DUPFD, 10),
                );
                libc::dup2(input, 3) == 3 && libc::dup2(output, 4) == 4
            };
            match placed {
                true => Ok(()),
                false => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: see there.
        unsafe { command.pre_exec(place) };
        let Ok(child) = command.spawn() else {
            skipped("chromium is not installed");
            return None;
        };
        let mut browser = Self {
            to: Sender::from_owned_fd(to).unwrap(),
            from: BufReader::new(Receiver::from_owned_fd(from).unwrap()),
            asked: 0,
            page: None,
            _child: child,
            _profile: profile,
        };
        let blank = json!({"url": "about:blank"});
        let target = browser.call("Target.createTarget", blank).await;
        let target = json!({"targetId": target["targetId"], "flatten": true});
        let page = browser.call("Target.attachToTarget", target).await;
        browser.page = Some(page["sessionId"].as_str().unwrap().to_owned());
        Some(browser)
    }

    pub async fn open(&mut self, url: &str) {
        let opened = self.call("Page.navigate", json!({"url": url})).await;
        assert!(opened.get("errorText").is_none(), "{opened}");
        self.until("document.readyState === 'complete'").await;
    }

    /// Waits until an expression is true of the page, looking whenever that changes. Returns its
    /// value.
    pub async fn until(&mut self, expression: &str) -> Value {
        let waiting = format!(
            "new Promise(done => {{
                const look = () => {{ const value = ({expression}); if (value) done(value); }};
                const seen = {{subtree: true, childList: true, characterData: true, attributes: true}};
                new MutationObserver(look).observe(document, seen);
                addEventListener('load', look);
                look();
            }})"
        );
        self.run(&waiting).await
    }

    /// The value of an expression.
    pub async fn run(&mut self, expression: &str) -> Value {
        let what = json!({
            "expression": expression,
            "awaitPromise": true,
            "returnByValue": true,
            "userGesture": true,
        });
        let result = self.call("Runtime.evaluate", what).await;
        assert!(
            result.get("exceptionDetails").is_none(),
            "{expression}: {result}"
        );
        result["result"]["value"].clone()
    }

    /// Gives a command and waits for its result.
    pub async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.asked += 1;
        let mut command = json!({"id": self.asked, "method": method, "params": parameters});
        if let Some(page) = &self.page {
            command["sessionId"] = json!(page);
        }
        let command = format!("{command}\0");
        self.to.write_all(command.as_bytes()).await.unwrap();
        let answering = async {
            loop {
                let mut message = Vec::new();
                self.from.read_until(0, &mut message).await.unwrap();
                assert_eq!(message.pop(), Some(0), "the browser has gone");
                let message: Value = serde_json::from_slice(&message).unwrap();
                if message["id"] == self.asked {
                    return message;
                }
            }
        };
        let answer = soon(&format!("{method} {parameters}"), answering).await;
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }
}
