//! Tells when the files of the running configuration have changed.
//!
//! Editors, deployment tools and Kubernetes replace files rather than write them, so what is
//! watched are directories: every one that the path of a file leads through, symbolic links
//! followed. What happened there is not interpreted. After any event the links are followed
//! again, and the contents say whether something changed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::mem;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::{Receiver as Queue, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

/// How long to wait after an event before looking: a save is several events.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// As many links as Linux follows in one path.
const MAX_LINKS: usize = 40;

/// Watches a set of files until it and its clones are dropped.
#[derive(Clone)]
pub struct Watcher {
    state: Arc<Mutex<State>>,
}

impl Watcher {
    /// A watcher of no files yet, and where its notices arrive.
    ///
    /// A notice says that since the last one at least one file changed its content, appeared or
    /// vanished. Notices not yet received are one.
    ///
    /// # Errors
    /// When the system gives no means to watch, or no thread.
    pub fn new() -> notify::Result<(Self, mpsc::Receiver<()>)> {
        // One waiting event is enough: the look that follows sees what all of them left.
        let (events, queue) = sync_channel(1);
        let notify = notify::recommended_watcher(move |event: notify::Result<Event>| {
            match event {
                Ok(event) if !may_change_content(&event) => return,
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "watching files"),
            }
            let _ = events.try_send(());
        })?;
        let (notices, receiver) = mpsc::channel(1);
        let state = Arc::new(Mutex::new(State {
            notify,
            notices,
            files: BTreeMap::new(),
            directories: BTreeSet::new(),
        }));
        let weak = Arc::downgrade(&state);
        thread::Builder::new()
            .name("config-watch".to_owned())
            .spawn(move || run(&queue, &weak))?;
        Ok((Self { state }, receiver))
    }

    /// Replaces the set of files; they need not exist.
    ///
    /// A file that was in the set keeps the content of the last notice as what it is compared
    /// with. A new one starts with the content it has now, so name it before reading it: a change
    /// between the two would go unnoticed. Blocks for a few file reads.
    pub fn watch_files(&self, files: impl IntoIterator<Item = PathBuf>) {
        lock(&self.state).watch_files(files);
    }

    /// Adds to the set of files, as [`Self::watch_files`] would.
    pub fn watch_also(&self, files: impl IntoIterator<Item = PathBuf>) {
        let mut state = lock(&self.state);
        let known: Vec<_> = state.files.keys().cloned().collect();
        state.watch_files(known.into_iter().chain(files));
    }
}

/// The watcher's own reading opens files, and would call for the next reading for ever.
fn may_change_content(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

/// Looks after each burst of events. Ends when the watcher, and with it the sender, is dropped.
fn run(queue: &Queue<()>, state: &Weak<Mutex<State>>) {
    while queue.recv().is_ok() {
        loop {
            thread::sleep(DEBOUNCE);
            // Taken before the look, so that an event during the look leads to another one.
            let _ = queue.try_recv();
            let Some(state) = state.upgrade() else { return };
            if lock(&state).look() {
                break;
            }
        }
    }
}

/// A panic while it was held leaves nothing half-done that the next look does not redo.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The hash of a file's content.
type Hash = [u8; 32];

struct State {
    notify: RecommendedWatcher,
    notices: mpsc::Sender<()>,
    /// Each file with its content at the last notice; `None` if it could not be read.
    files: BTreeMap<PathBuf, Option<Hash>>,
    /// Where changes are waited for.
    directories: BTreeSet<PathBuf>,
}

impl State {
    fn watch_files(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        let known = mem::take(&mut self.files);
        let absolute = |file: PathBuf| (std::path::absolute(&file).unwrap_or(file), None);
        self.files = files.into_iter().map(absolute).collect();
        // Watch first and read then, so that no change falls between the two.
        self.watch_directories();
        for (file, seen) in &mut self.files {
            *seen = known.get(file).copied().unwrap_or_else(|| hash(file).ok());
        }
        self.look();
    }

    /// Follows the links anew and sends a notice if a content is not what it was. Whether that
    /// could be found out of all files.
    fn look(&mut self) -> bool {
        self.watch_directories();
        let (mut changed, mut complete) = (false, true);
        for (file, seen) in &mut self.files {
            let now = match hash(file) {
                Err(error) if lacks_descriptor(&error) => {
                    complete = false;
                    continue;
                }
                result => result.ok(),
            };
            changed |= now != *seen;
            *seen = now;
        }
        if changed {
            // Full means that a notice waits already, closed that nobody wants one.
            let _ = self.notices.try_send(());
        }
        complete
    }

    /// Watches the directories that the files' paths lead through now, and no others.
    fn watch_directories(&mut self) {
        let mut watched = BTreeSet::new();
        // Links may be swapped until their directory is watched: done when a pass finds no more.
        loop {
            let mut found = BTreeSet::new();
            for file in self.files.keys() {
                add_directories(file, &mut found);
            }
            // Parents come first, so that a directory that comes or goes meanwhile is seen.
            let new: Vec<_> = found.difference(&watched).cloned().collect();
            if new.is_empty() {
                break;
            }
            for directory in new {
                // Also those that are watched already: they may be new ones of the same name.
                let result = self.notify.watch(&directory, RecursiveMode::NonRecursive);
                if let Err(error) = result
                    && !matches!(error.kind, ErrorKind::PathNotFound)
                    && !self.directories.contains(&directory)
                {
                    tracing::warn!(directory = %directory.display(), %error, "cannot watch");
                }
                watched.insert(directory);
            }
        }
        for directory in self.directories.difference(&watched) {
            // Fails if the directory is gone, and its watch with it.
            let _ = self.notify.unwatch(directory);
        }
        self.directories = watched;
    }
}

/// Adds every directory in which a name is looked up on the way to `file`.
fn add_directories(file: &Path, found: &mut BTreeSet<PathBuf>) {
    let mut at = PathBuf::new();
    let mut links = 0;
    let mut rest: VecDeque<PathBuf> = parts(file).collect();
    while let Some(part) = rest.pop_front() {
        match Path::new(&part).components().next() {
            Some(Component::Normal(name)) => {
                found.insert(at.clone());
                let next = at.join(name);
                match fs::read_link(&next) {
                    Ok(target) if links < MAX_LINKS => {
                        links += 1;
                        for part in parts(&target).rev() {
                            rest.push_front(part);
                        }
                    }
                    _ => at = next,
                }
            }
            Some(Component::ParentDir) => {
                at.pop();
            }
            // A root replaces what was before it.
            _ => at.push(part),
        }
    }
}

fn parts(path: &Path) -> impl DoubleEndedIterator<Item = PathBuf> {
    path.components()
        .map(|part| PathBuf::from(part.as_os_str()))
}

/// The hash of a regular file's content; reading a pipe might never end.
fn hash(file: &Path) -> io::Result<Hash> {
    if !fs::metadata(file)?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(Sha256::digest(fs::read(file)?).into())
}

/// Whether an error says nothing of a file.
fn lacks_descriptor(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;
    use std::time::SystemTime;

    use tempfile::TempDir;

    use super::*;

    /// A watcher of the file `config.yaml` in a directory of its own.
    struct Fixture {
        root: TempDir,
        watcher: Watcher,
        notices: mpsc::Receiver<()>,
    }

    impl Fixture {
        /// `prepare` fills the directory before it is watched.
        fn new(prepare: impl FnOnce(&Path)) -> Self {
            let root = tempfile::tempdir().unwrap();
            prepare(root.path());
            let (watcher, notices) = Watcher::new().unwrap();
            watcher.watch_files([root.path().join("config.yaml")]);
            Self {
                root,
                watcher,
                notices,
            }
        }

        fn with_file() -> Self {
            Self::new(|root| fs::write(root.join("config.yaml"), "1").unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.path(name), text).unwrap();
        }

        fn save(&self, text: &str) {
            self.write(".config.yaml.tmp", text);
            fs::rename(self.path(".config.yaml.tmp"), self.path("config.yaml")).unwrap();
        }

        async fn notice(&mut self) {
            tokio::time::timeout(Duration::from_secs(20), self.notices.recv())
                .await
                .expect("no notice in time")
                .expect("the watcher lives");
        }
    }

    #[tokio::test]
    async fn a_write_is_noticed() {
        let mut f = Fixture::with_file();
        for text in ["2", "3"] {
            f.write("config.yaml", text);
            f.notice().await;
        }
    }

    #[tokio::test]
    async fn every_save_by_rename_is_noticed() {
        let mut f = Fixture::with_file();
        for text in ["2", "3", "4"] {
            f.save(text);
            f.notice().await;
        }
    }

    #[tokio::test]
    async fn deleting_and_creating_anew_are_noticed() {
        let mut f = Fixture::with_file();
        for text in ["1", "2"] {
            fs::remove_file(f.path("config.yaml")).unwrap();
            f.notice().await;
            f.write("config.yaml", text);
            f.notice().await;
        }
    }

    #[tokio::test]
    async fn a_save_undone_by_a_delete_is_noticed() {
        let mut f = Fixture::with_file();
        f.save("2");
        fs::remove_file(f.path("config.yaml")).unwrap();
        f.notice().await;
    }

    #[tokio::test]
    async fn a_file_may_appear_later_in_a_directory_that_does() {
        let mut f = Fixture::new(|_| ());
        f.watcher.watch_files([f.path("a/b/route.lua")]);
        fs::create_dir_all(f.path("a/b")).unwrap();
        f.write("a/b/route.lua", "1");
        f.notice().await;
    }

    #[tokio::test]
    async fn swapping_the_directory_of_a_config_map_is_noticed() {
        let mut f = Fixture::new(|root| {
            fs::create_dir(root.join("..1")).unwrap();
            fs::write(root.join("..1/config.yaml"), "1").unwrap();
            symlink("..1", root.join("..data")).unwrap();
            symlink("..data/config.yaml", root.join("config.yaml")).unwrap();
        });
        for new in 2..5 {
            let directory = format!("..{new}");
            fs::create_dir(f.path(&directory)).unwrap();
            f.write(&format!("{directory}/config.yaml"), &directory);
            symlink(&directory, f.path("..data_tmp")).unwrap();
            fs::rename(f.path("..data_tmp"), f.path("..data")).unwrap();
            fs::remove_dir_all(f.path(&format!("..{}", new - 1))).unwrap();
            f.notice().await;
        }
    }

    #[tokio::test]
    async fn a_link_leads_to_changes_elsewhere() {
        let elsewhere = tempfile::tempdir().unwrap();
        let file = elsewhere.path().join("real.yaml");
        fs::write(&file, "1").unwrap();
        let mut f = Fixture::new(|root| symlink(&file, root.join("config.yaml")).unwrap());
        for text in ["2", "3"] {
            fs::write(&file, text).unwrap();
            f.notice().await;
        }
    }

    #[tokio::test]
    async fn a_replaced_directory_is_watched_like_the_one_before() {
        let mut f = Fixture::new(|_| ());
        fs::create_dir(f.path("scripts")).unwrap();
        f.write("scripts/route.lua", "1");
        f.watcher.watch_files([f.path("scripts/route.lua")]);
        for text in ["2", "3"] {
            fs::create_dir(f.path("next")).unwrap();
            f.write("next/route.lua", text);
            fs::rename(f.path("scripts"), f.path(&format!("before-{text}"))).unwrap();
            fs::rename(f.path("next"), f.path("scripts")).unwrap();
            f.notice().await;
            f.write("scripts/route.lua", &format!("{text} written"));
            f.notice().await;
        }
        fs::remove_dir_all(f.path("scripts")).unwrap();
        f.notice().await;
        fs::create_dir(f.path("scripts")).unwrap();
        f.write("scripts/route.lua", "4");
        f.notice().await;
    }

    #[tokio::test]
    async fn what_leaves_the_content_as_it_is_gives_no_notice() {
        let mut f = Fixture::with_file();
        let file = File::options()
            .append(true)
            .open(f.path("config.yaml"))
            .unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        f.save("1");
        f.write("other.yaml", "2");
        // What those events lead to, whenever they come.
        lock(&f.watcher.state).look();
        assert!(f.notices.try_recv().is_err());

        // Renamed into place, so that nobody sees it half written.
        f.save("2");
        f.notice().await;
        lock(&f.watcher.state).look();
        assert!(f.notices.try_recv().is_err());
    }

    #[tokio::test]
    async fn changes_not_yet_received_are_one_notice() {
        let mut f = Fixture::with_file();
        for text in ["2", "3"] {
            f.write("config.yaml", text);
            lock(&f.watcher.state).look();
        }
        f.notice().await;
        lock(&f.watcher.state).look();
        assert!(f.notices.try_recv().is_err());
    }

    #[tokio::test]
    async fn the_set_of_files_is_replaced() {
        let mut f = Fixture::with_file();
        f.write("a.lua", "1");
        f.watcher.watch_files([f.path("a.lua")]);
        f.write("config.yaml", "2");
        lock(&f.watcher.state).look();
        assert!(f.notices.try_recv().is_err());
        f.write("a.lua", "2");
        f.notice().await;
    }

    #[tokio::test]
    async fn a_change_is_not_lost_when_the_set_is_replaced() {
        let mut f = Fixture::with_file();
        f.write("config.yaml", "2");
        f.watcher.watch_files([f.path("config.yaml")]);
        f.notice().await;
    }

    #[tokio::test]
    async fn a_dropped_watcher_closes_the_channel() {
        let Fixture {
            watcher,
            mut notices,
            ..
        } = Fixture::with_file();
        drop(watcher);
        assert_eq!(notices.recv().await, None);
    }

    #[test]
    fn links_in_a_circle_end() {
        let root = tempfile::tempdir().unwrap();
        symlink("b", root.path().join("a")).unwrap();
        symlink("a", root.path().join("b")).unwrap();
        let mut found = BTreeSet::new();
        add_directories(&root.path().join("a/config.yaml"), &mut found);
        assert!(found.contains(root.path()));
    }

    #[test]
    fn reading_is_no_change() {
        let event = |kind| may_change_content(&Event::new(EventKind::Access(kind)));
        assert!(!event(AccessKind::Open(AccessMode::Any)));
        assert!(!event(AccessKind::Close(AccessMode::Read)));
        assert!(event(AccessKind::Close(AccessMode::Write)));
    }
}
