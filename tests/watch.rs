//! Watching files in a process without descriptors, which is why it has a process of its own.

mod common;

use std::fs::File;
use std::io::Write;

use common::soon;
use stablegate::config::watch::Watcher;
use stablegate::files::Files;

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
