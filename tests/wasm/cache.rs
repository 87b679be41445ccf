//! Compiled code on disk.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use stablegate::hooks::wasm::{self, WasmHook};
use stablegate::hooks::{Answer, Hook, Question};

use crate::harm::ALLOW;
use crate::rig::{Rig, question};
use crate::wat::Wat;

/// A gateway just started: loads a plugin and asks it.
async fn load(rig: &Rig, cache: &Path, file: &str) {
    let host = wasm::PluginHost::new(Some(cache.to_owned()));
    let spec = rig.spec("plugin", rig.dir.path().join(file));
    let hook = WasmHook::load(&host, spec, rig.instances).unwrap();
    let answer = hook.call(question(Question::Access)).await.answer;
    assert_eq!(answer.unwrap(), Answer::Allow);
}

fn files(cache: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cache).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn rig() -> Rig {
    let rig = Rig::new();
    let wat = Wat::default().function("access-control#access", ALLOW);
    rig.write("plugin.wat", wat.text());
    rig
}

#[tokio::test]
async fn code_is_kept_for_this_user_alone() {
    let rig = rig();
    let cache = rig.dir.path().join("some/cache");
    load(&rig, &cache, "plugin.wat").await;
    let [kept] = &files(&cache)[..] else {
        panic!("{:?}", files(&cache))
    };
    assert_eq!((mode(&cache), mode(kept)), (0o700, 0o600));

    // It is used: the same file is still there, and another content is another file.
    let before = fs::metadata(kept).unwrap();
    load(&rig, &cache, "plugin.wat").await;
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(kept).unwrap().ino(), before.ino());
    let text = fs::read_to_string(rig.dir.path().join("plugin.wat")).unwrap();
    rig.write("other.wat", text + ";; other");
    load(&rig, &cache, "other.wat").await;
    assert_eq!(files(&cache).len(), 2);
}

#[tokio::test]
async fn what_others_can_write_is_not_read() {
    let rig = rig();
    let cache = rig.dir.path().join("cache");
    load(&rig, &cache, "plugin.wat").await;
    let [kept] = &files(&cache)[..] else {
        panic!("{:?}", files(&cache))
    };
    // Would be taken for code if it were read.
    let harm = b"\x7fELF and then something that is none".to_vec();
    fs::write(kept, &harm).unwrap();
    set_mode(kept, 0o622);
    load(&rig, &cache, "plugin.wat").await;
    // It was compiled anew and put in its place.
    assert_ne!(fs::read(kept).unwrap(), harm);
    assert_eq!(mode(kept), 0o600);

    set_mode(&cache, 0o777);
    let before = fs::read(kept).unwrap();
    fs::remove_file(kept).unwrap();
    load(&rig, &cache, "plugin.wat").await;
    assert_eq!(files(&cache), [] as [PathBuf; 0]);
    set_mode(&cache, 0o700);

    // Nor what is elsewhere.
    let elsewhere = rig.write("elsewhere", before);
    symlink(&elsewhere, kept).unwrap();
    load(&rig, &cache, "plugin.wat").await;
    assert!(!fs::symlink_metadata(kept).unwrap().is_symlink());
}

#[tokio::test]
async fn what_is_damaged_is_compiled_anew() {
    let rig = rig();
    let cache = rig.dir.path().join("cache");
    load(&rig, &cache, "plugin.wat").await;
    let [kept] = &files(&cache)[..] else {
        panic!("{:?}", files(&cache))
    };
    let good = fs::read(kept).unwrap();
    // One bit of the code, of which most lies beyond the first pages, and of the hash.
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let (middle, last) = (flipped(good.len() / 2), flipped(good.len() - 1));
    for damaged in [&b""[..], b"x", b"\x7fELF", &good[1..], &middle, &last] {
        fs::write(kept, damaged).unwrap();
        load(&rig, &cache, "plugin.wat").await;
        assert_ne!(fs::read(kept).unwrap(), damaged);
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_done_without() {
    let rig = rig();
    let file = rig.write("file", "");
    load(&rig, &file, "plugin.wat").await;
    load(&rig, &file.join("below"), "plugin.wat").await;
}

#[tokio::test]
async fn the_directory_may_be_a_link() {
    let rig = rig();
    let elsewhere = rig.dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    set_mode(&elsewhere, 0o755);
    let cache = rig.dir.path().join("cache");
    symlink(&elsewhere, &cache).unwrap();
    load(&rig, &cache, "plugin.wat").await;
    assert_eq!(files(&elsewhere).len(), 1);
}

/// Who can write a directory above can put another in the place of the cache.
#[tokio::test]
async fn a_directory_that_others_can_replace_is_not_used() {
    let rig = rig();
    let above = rig.dir.path().join("above");
    let cache = above.join("cache");
    load(&rig, &cache, "plugin.wat").await;
    let [kept] = &files(&cache)[..] else {
        panic!("{:?}", files(&cache))
    };
    fs::remove_file(kept).unwrap();
    set_mode(&above, 0o777);
    load(&rig, &cache, "plugin.wat").await;
    assert_eq!(files(&cache), [] as [PathBuf; 0]);
    // As `/tmp` is.
    set_mode(&above, 0o1777);
    load(&rig, &cache, "plugin.wat").await;
    assert!(kept.exists());
}

#[tokio::test]
async fn old_code_goes() {
    let rig = rig();
    let cache = rig.dir.path().join("cache");
    fs::create_dir(&cache).unwrap();
    set_mode(&cache, 0o700);
    let now = std::time::SystemTime::now();
    // Sparse files; one was left by a gateway that was killed.
    for (age, name) in [(1, "used.cwasm"), (2, "killed.new"), (3, "old.cwasm")] {
        let file = fs::File::create(cache.join(name)).unwrap();
        file.set_len(200 << 20).unwrap();
        file.set_modified(now - std::time::Duration::from_secs(age * 60))
            .unwrap();
    }
    load(&rig, &cache, "plugin.wat").await;
    let left = files(&cache);
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(!left.contains(&cache.join("old.cwasm")), "{left:?}");
}

#[tokio::test]
async fn what_is_no_file_is_neither_read_nor_waited_for() {
    let rig = rig();
    let cache = rig.dir.path().join("cache");
    load(&rig, &cache, "plugin.wat").await;
    let [kept] = &files(&cache)[..] else {
        panic!("{:?}", files(&cache))
    };
    fs::remove_file(kept).unwrap();
    let path = std::ffi::CString::new(kept.as_os_str().as_encoded_bytes()).unwrap();
    // SAFETY: the path ends with a zero, and is only read.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    load(&rig, &cache, "plugin.wat").await;
    assert!(fs::metadata(kept).unwrap().is_file());
}
