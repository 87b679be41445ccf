//! Watching files in processes without what it takes: descriptors, or inotify.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;

use stablegate::config::watch::Watcher;
use stablegate::internal::files::Files;

use crate::common::{Gateway, soon};

/// Whether this process runs nothing but the test of this name. If it does not, one is started that
/// does, and must succeed.
async fn has_a_process_of_its_own(test: &str) -> bool {
    const MARK: &str = "STABLEGATE_PROCESS_OF_ITS_OWN";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let running = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(MARK, "1")
        .kill_on_drop(true)
        .output();
    let output = soon("the end of a test", running).await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
    false
}

/// Sets the limit of descriptors and returns what it was.
fn limit_descriptors(limit: u64) -> u64 {
    let mut limits = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointers are to a whole struct.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limits), 0);
        let was = std::mem::replace(&mut limits.rlim_cur, limit);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limits), 0);
        was
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_now_has_not_changed() {
    let name = "watch::a_file_that_cannot_be_opened_now_has_not_changed";
    if !has_a_process_of_its_own(name).await {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    let mut file = File::create(&path).unwrap();
    let (watcher, mut notices) = Watcher::new().unwrap();
    let mut files = Files::default();
    files.name(path);
    watcher.watch_files(files.clone());
    let was = limit_descriptors(0);
    // Looks at them, too.
    watcher.watch_files(files.clone());
    assert!(notices.try_recv().is_err());
    // What changes meanwhile is noticed later.
    file.write_all(b"1").unwrap();
    watcher.watch_files(files.clone());
    assert!(notices.try_recv().is_err());
    limit_descriptors(was);
    soon("a notice", notices.recv()).await.unwrap();
}

/// Takes a kind of inotify's resources from the process that begins. Fails where user namespaces
/// are not allowed.
fn without(resource: &'static CStr) -> impl FnMut() -> io::Result<()> {
    move || {
        // SAFETY: system calls that change nothing but this process, with a path that ends with a
        // zero and one byte to write.
        let written = unsafe {
            match libc::unshare(libc::CLONE_NEWUSER) {
                0 => libc::write(
                    libc::open(resource.as_ptr(), libc::O_WRONLY),
                    b"0".as_ptr().cast(),
                    1,
                ),
                _ => -1,
            }
        };
        match written {
            1 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Has a gateway do without a kind of inotify's resources.
async fn polls_without(resource: &'static CStr, said: &str) {
    const SCRIPT: &str = "function access() end\n";
    let config = "listeners: [{name: game, bind: ['tcp://127.0.0.1:0'], session: scp, \
        hooks: [route]}]\nhosts: [{name: echo, addr: 'builtin:echo'}]\n\
        hooks: [{name: route, lua: route.lua}]\n";
    let mut trial = std::process::Command::new("true");
    // SAFETY: it makes system calls alone.
    let trial = unsafe { trial.pre_exec(without(resource)) }.status();
    if let Err(error) = trial {
        let mut stderr = io::stderr();
        writeln!(stderr, "SKIPPED: user namespaces cannot be had: {error}").unwrap();
        return;
    }
    let mut gateway = Gateway::begin_among(&[("route.lua", SCRIPT)], config, |command| {
        // SAFETY: as above.
        unsafe { command.pre_exec(without(resource)) };
    });
    gateway.listens().await;
    let warned = |line: &serde_json::Value| line.to_string().contains(said);
    gateway.log().wait(said, warned).await;
    gateway.signal(libc::SIGHUP);
    gateway.log().nth("reloaded", 0).await;
    gateway.save("route.lua", "function access() end -- anew\n");
    gateway.log().nth("reloaded", 1).await;
    // Not again and again.
    gateway.save("route.lua", SCRIPT);
    let reloaded = gateway.log().nth("reloaded", 2).await;
    assert_eq!(reloaded["generation"], 4);
}

#[tokio::test]
async fn without_inotify_files_are_polled() {
    tokio::join!(
        polls_without(
            c"/proc/sys/user/max_inotify_instances",
            "fs.inotify.max_user_instances",
        ),
        polls_without(
            c"/proc/sys/user/max_inotify_watches",
            "fs.inotify.max_user_watches",
        ),
    );
}
