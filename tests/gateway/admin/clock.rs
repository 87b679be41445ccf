//! A machine whose clock is wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::CONFIG;
use crate::common::http::get;
use crate::common::{Cut, Gateway, Raw, soon};

/// What to put before the C library: it moves the clock by as many seconds as a file says.
const CLOCK: &str = r#"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *at) {
    int result = syscall(SYS_clock_gettime, clock, at);
    if (result == 0 && clock == CLOCK_REALTIME) {
        char text[32] = "0";
        int file = open(getenv("CLOCK_OFFSET"), O_RDONLY);
        read(file, text, sizeof text - 1);
        close(file);
        at->tv_sec += atoll(text);
    }
    return result;
}
"#;

fn compile(directory: &Path) -> PathBuf {
    let (source, library) = (directory.join("clock.c"), directory.join("clock.so"));
    fs::write(&source, CLOCK).unwrap();
    // The compiler that the script host was built with.
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{compiled:?}");
    library
}

#[tokio::test]
async fn a_clock_that_is_wrong_for_a_while() {
    let directory = tempfile::tempdir().unwrap();
    let library = compile(directory.path());
    let offset = directory.path().join("offset");
    let set = |seconds: i64| {
        fs::write(offset.with_extension("new"), seconds.to_string()).unwrap();
        fs::rename(offset.with_extension("new"), &offset).unwrap();
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let years = 365 * 86_400;
    for (wrong, written) in [
        (-(now.as_secs() as i64) - years, "1970-01-01T00:00:00.000Z"),
        (9000 * years, "9999-12-31T23:59:59.000Z"),
    ] {
        let environment = [
            ("LD_PRELOAD", library.as_os_str()),
            ("CLOCK_OFFSET", offset.as_os_str()),
        ];
        set(wrong);
        let config = format!("{CONFIG}scp: {{resume_wait: 10ms}}\n");
        let gateway = Gateway::start_under(&config, &environment).await;
        let admin = gateway.admin().await;
        let mut live = Raw::connect(gateway.addr()).await;
        live.echo("in").await;
        let mut ended = Raw::connect(gateway.addr()).await;
        ended.echo("out").await;
        ended.leave(Cut::Close);
        gateway.log().of(ended.id, "session closed").await;
        gateway.signal(libc::SIGHUP);
        gateway.log().nth("reloaded", 0).await;
        // Nothing can be answered whose date cannot be written.
        let mut stream = TcpStream::connect(admin).await.unwrap();
        stream
            .write_all(b"GET /healthz HTTP/1.0\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        let _ = soon("the end", stream.read_to_string(&mut answer)).await;
        assert_eq!(answer, "");
        let message = "the clock is wrong, so the admin interface cannot answer";
        gateway.log().nth(message, 0).await;

        set(0);
        for path in ["/", "/healthz", "/readyz", "/config", "/metrics"] {
            assert_eq!(get(admin, path).await.status, StatusCode::OK, "{path}");
        }
        let status = get(admin, "/status").await.good();
        assert_eq!(status["started_at"], written);
        assert_eq!(status["last_reload"]["at"], written);
        let list = get(admin, "/sessions?state=ended").await.good();
        assert_eq!(list["sessions"][0]["ended"]["at"], written);
        let one = get(admin, &format!("/sessions/{}", ended.id)).await.good();
        assert_eq!(one["transports"][0]["at"], one["started_at"]);
        get(admin, "/sessions").await.good();
        get(admin, &format!("/sessions/{}", live.id)).await.good();
        live.resume(gateway.addr()).await;
        live.echo("back").await;
        assert_eq!(gateway.log().all("panicked"), Vec::<Value>::new());
    }
}
