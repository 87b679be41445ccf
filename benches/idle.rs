//! What idle sessions cost a gateway: its processor time and resident memory, all in all.
//! `cargo bench --bench idle`

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use stablegate::client::Address;
use stablegate::client::scp::{Options, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SESSIONS: usize = 1_000;
const WATCHED: Duration = Duration::from_secs(10);

struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    for transport in ["kcp", "tcp"] {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("config.yaml");
        let config = format!(
            "admin: ''\nlisteners: [{{name: game, bind: ['{transport}://127.0.0.1:0'], session: scp}}]\n\
             hosts: [{{name: echo, addr: 'builtin:echo'}}]\n"
        );
        std::fs::write(&path, config).expect("a file");
        let mut gateway = Command::new(env!("CARGO_BIN_EXE_stablegate"))
            .args(["run", "--log-format", "json", "--config"])
            .arg(&path)
            .stderr(Stdio::piped())
            .spawn()
            .map(Gateway)
            .expect("the binary");
        let log = gateway.0.stderr.take().expect("piped");
        let mut lines = BufReader::new(log).lines();
        let addr = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let line: serde_json::Value = serde_json::from_str(&line).ok()?;
                (line["message"] == "listening")
                    .then(|| line["addr"].as_str().map(str::to_owned))?
            })
            .expect("it listens");
        std::thread::spawn(move || lines.for_each(drop));
        let address: Address = format!("{transport}://{addr}").parse().expect("an address");
        let pid = gateway.0.id();
        let mut sessions = Vec::new();
        open(&mut sessions, &address, 20).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let before = resident(pid);
        open(&mut sessions, &address, SESSIONS).await;
        // Grown buffers are given back meanwhile.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let each = (resident(pid) - before) as f64 / SESSIONS as f64;
        let started = cpu(pid);
        tokio::time::sleep(WATCHED).await;
        let share = (cpu(pid) - started).as_secs_f64() / WATCHED.as_secs_f64();
        println!(
            "{SESSIONS} idle   {transport}        {:.2} % of a core, {:.1} KiB each",
            share * 100.0,
            each / 1024.0
        );
    }
}

async fn open(sessions: &mut Vec<Stream>, address: &Address, count: usize) {
    for _ in 0..count {
        let mut stream = Stream::connect(Options::new(address.clone()))
            .await
            .expect("a session");
        let mut message = [7; 100];
        stream.write_all(&message).await.expect("it is there");
        stream.read_exact(&mut message).await.expect("it is there");
        sessions.push(stream);
    }
}

/// Bytes.
fn resident(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).expect("it runs");
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("a number");
    pages * 4096
}

fn cpu(pid: u32) -> Duration {
    let schedstat = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let nanos = schedstat.flatten().map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let first = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
        first.unwrap_or(0)
    });
    Duration::from_nanos(nanos.sum())
}
