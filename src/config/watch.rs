//! Watcher of the running configuration's files.
//!
//! Editors, deployment tools and Kubernetes replace files rather than write them. So the watcher
//! watches directories: every one that the path of a file leads through, symbolic links followed.
//! An event is not interpreted. After any event the links are followed again, and the contents of
//! the files say whether something changed.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::mem;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::{Receiver as Queue, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use crate::files::Files;
use crate::sync::Mutex;

/// Time to wait after an event before looking, because a save is several events.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// Interval of looks where the system tells of no events.
const POLL: Duration = Duration::from_secs(2);

/// Most links in one path, as on Linux.
const MAX_LINKS: usize = 40;

/// Receiver of a [`Watcher`]'s notices.
pub type Changes = mpsc::Receiver<()>;

/// Watcher of a set of files, until it and its clones are dropped.
#[derive(Clone)]
pub struct Watcher {
    state: Arc<Mutex<State>>,
}

impl Watcher {
    /// Creates a watcher without files, and the receiver of its notices.
    ///
    /// A notice says that at least one file changed its content, appeared or vanished since the
    /// last notice. Notices that were not received yet are one.
    ///
    /// Where the system has no means left to tell of events, the watcher looks at the files every
    /// two seconds.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn new() -> io::Result<(Self, Changes)> {
        // One waiting event is enough: the look that follows sees the effects of all events.
        let (events, queue) = sync_channel(1);
        let sender = events.clone();
        let notify = notify::recommended_watcher(move |event: notify::Result<Event>| {
            match event {
                Ok(event) if !may_change_content(&event) => return,
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "watching files"),
            }
            let _ = sender.try_send(());
        });
        let notify = match notify {
            Ok(notify) => Some(notify),
            Err(error) => {
                tracing::warn!(
                    %error,
                    every = ?POLL,
                    "no inotify instance left (fs.inotify.max_user_instances): polling the files"
                );
                None
            }
        };
        let (notices, receiver) = mpsc::channel(1);
        let polls = notify.is_none();
        let state = Arc::new(Mutex::new(State {
            polls,
            notify,
            events,
            notices,
            files: Files::default(),
            directories: BTreeSet::new(),
        }));
        let weak = Arc::downgrade(&state);
        thread::Builder::new()
            .name("config-watch".to_owned())
            .spawn(move || run(&queue, &weak, polls))?;
        Ok((Self { state }, receiver))
    }

    /// Replaces the set of files, which need not exist.
    ///
    /// A file that was read is compared with what was read then. A file that was only named is
    /// compared with its content at the last notice, if it was in the set, or else with the content
    /// that it has now. Blocks for a few file reads.
    pub fn watch_files(&self, files: Files) {
        self.state.lock().watch_files(files);
    }

    /// Adds to the set of files; see [`Self::watch_files`].
    pub fn watch_also(&self, files: Files) {
        let mut state = self.state.lock();
        let mut all = mem::take(&mut state.files);
        all.extend(files);
        state.watch_files(all);
    }
}

/// Returns whether an event may come from a change of content.
///
/// The watcher opens files to read them: if those events counted, each look would lead to another.
fn may_change_content(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

/// Looks at the files after each burst of events, and at intervals where events may be missing.
///
/// Ends when the watcher is dropped.
fn run(queue: &Queue<()>, state: &Weak<Mutex<State>>, mut polls: bool) {
    loop {
        let event = match polls {
            true => queue.recv_timeout(POLL),
            false => queue.recv().map_err(RecvTimeoutError::from),
        };
        match event {
            Ok(()) => thread::sleep(DEBOUNCE),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        loop {
            // Taken before the look, so that an event during the look leads to another one.
            let _ = queue.try_recv();
            let Some(state) = state.upgrade() else { return };
            let mut state = state.lock();
            let is_complete = state.look();
            polls = state.polls;
            drop(state);
            if is_complete {
                break;
            }
            thread::sleep(DEBOUNCE);
        }
    }
}

struct State {
    /// Source of events. `None` where the system has none left.
    notify: Option<RecommendedWatcher>,
    /// Sender that asks for a look.
    events: SyncSender<()>,
    /// Set if there may be changes without events.
    polls: bool,
    notices: mpsc::Sender<()>,
    /// Files, each with its content at the last notice.
    files: Files,
    /// Directories that are watched.
    directories: BTreeSet<PathBuf>,
}

impl State {
    fn watch_files(&mut self, mut files: Files) {
        files.recall(mem::take(&mut self.files));
        self.files = files;
        let polled = self.polls;
        // The look follows the watching, so that no change falls between the two.
        self.look();
        if self.polls && !polled {
            let _ = self.events.try_send(());
        }
    }

    /// Follows the links again and sends a notice if a content has changed. Returns whether all
    /// files could be looked at.
    fn look(&mut self) -> bool {
        self.watch_directories();
        let looked = self.files.look();
        if looked.is_changed {
            // A full channel has a notice waiting; nobody wants notices of a closed one.
            let _ = self.notices.try_send(());
        }
        looked.is_complete
    }

    /// Watches the directories that the files' paths lead through now, and no others.
    fn watch_directories(&mut self) {
        let Some(notify) = &mut self.notify else {
            return;
        };
        let (mut watched, mut polls) = (BTreeSet::new(), false);
        // Links may be swapped before their directory is watched: pass again until there are no new
        // ones.
        loop {
            let mut found = BTreeSet::new();
            for file in self.files.paths() {
                add_directories(file, &mut found);
            }
            // Parents come first, so that a directory that comes or goes meanwhile is seen.
            let new: Vec<_> = found.difference(&watched).cloned().collect();
            if new.is_empty() {
                break;
            }
            for directory in new {
                // Watched again even if it was watched before, as the directory may be a new one of
                // the same name.
                let result = notify.watch(&directory, RecursiveMode::NonRecursive);
                if let Err(error) = result
                    && !matches!(error.kind, ErrorKind::PathNotFound)
                {
                    polls = true;
                    if !self.directories.contains(&directory) {
                        let error = match error.kind {
                            ErrorKind::MaxFilesWatch => {
                                "no inotify watch left (fs.inotify.max_user_watches)".to_owned()
                            }
                            _ => error.to_string(),
                        };
                        let directory = directory.display();
                        tracing::warn!(%directory, error, every = ?POLL, "cannot watch, polling");
                    }
                }
                watched.insert(directory);
            }
        }
        for directory in self.directories.difference(&watched) {
            // Fails if the directory is gone; then its watch is gone, too.
            let _ = notify.unwatch(directory);
        }
        self.directories = watched;
        self.polls = polls;
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
            // A root replaces the path so far.
            _ => at.push(part),
        }
    }
}

fn parts(path: &Path) -> impl DoubleEndedIterator<Item = PathBuf> {
    path.components()
        .map(|part| PathBuf::from(part.as_os_str()))
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;
    use std::time::{Instant, SystemTime};

    use tempfile::TempDir;

    use super::*;

    fn named(path: PathBuf) -> Files {
        let mut files = Files::default();
        files.name(path);
        files
    }

    /// Watcher of the file `config.yaml` in a directory of its own.
    struct Fixture {
        root: TempDir,
        watcher: Watcher,
        notices: mpsc::Receiver<()>,
    }

    impl Fixture {
        /// Creates a fixture; `prepare` fills the directory before it is watched.
        fn new(prepare: impl FnOnce(&Path)) -> Self {
            let root = tempfile::tempdir().unwrap();
            prepare(root.path());
            let (watcher, notices) = Watcher::new().unwrap();
            watcher.watch_files(named(root.path().join("config.yaml")));
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
        f.watcher.watch_files(named(f.path("a/b/route.lua")));
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
        f.watcher.watch_files(named(f.path("scripts/route.lua")));
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
        // Does the look that those events lead to, whenever they come.
        f.watcher.state.lock().look();
        assert!(f.notices.try_recv().is_err());

        // Renamed into place, so that nobody sees it half written.
        f.save("2");
        f.notice().await;
        f.watcher.state.lock().look();
        assert!(f.notices.try_recv().is_err());
    }

    #[tokio::test]
    async fn changes_not_yet_received_are_one_notice() {
        let mut f = Fixture::with_file();
        for text in ["2", "3"] {
            f.write("config.yaml", text);
            f.watcher.state.lock().look();
        }
        f.notice().await;
        f.watcher.state.lock().look();
        assert!(f.notices.try_recv().is_err());
    }

    #[tokio::test]
    async fn the_set_of_files_is_replaced() {
        let mut f = Fixture::with_file();
        f.write("a.lua", "1");
        f.watcher.watch_files(named(f.path("a.lua")));
        f.write("config.yaml", "2");
        f.watcher.state.lock().look();
        assert!(f.notices.try_recv().is_err());
        f.write("a.lua", "2");
        f.notice().await;
    }

    #[tokio::test]
    async fn a_change_is_not_lost_when_the_set_is_replaced() {
        let mut f = Fixture::with_file();
        f.write("config.yaml", "2");
        f.watcher.watch_files(named(f.path("config.yaml")));
        f.notice().await;
    }

    #[tokio::test]
    async fn a_change_since_it_was_read_is_noticed() {
        let mut f = Fixture::with_file();
        let mut files = Files::default();
        for name in ["config.yaml", "a.lua"] {
            f.write(name, "1");
            assert_eq!(files.read(&f.path(name), 1).unwrap(), b"1");
        }
        assert!(files.read(&f.path("b.lua"), 1).is_err());
        f.watcher.watch_files(files.clone());
        f.watcher.state.lock().look();
        assert!(f.notices.try_recv().is_err());
        // The first file was not watched before, and the second did not exist.
        for name in ["a.lua", "b.lua"] {
            let mut files = files.clone();
            assert!(files.read(&f.path("config.yaml"), 1).is_ok());
            f.write(name, "2");
            f.watcher.watch_files(files);
            f.notice().await;
        }
    }

    /// Returns the bytes that this thread has read so far.
    fn bytes_read() -> u64 {
        let io = fs::read_to_string("/proc/thread-self/io").unwrap();
        let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
        line.unwrap().parse().unwrap()
    }

    /// Returns the bytes that one look at the files reads.
    fn look(f: &Fixture) -> u64 {
        let before = bytes_read();
        // Reading the counter is not counted.
        let counter = bytes_read() - before;
        let before = bytes_read();
        f.watcher.state.lock().look();
        bytes_read() - before - counter
    }

    #[tokio::test]
    async fn what_happens_beside_the_files_has_none_of_them_read() {
        const LEN: u64 = 1 << 20;
        let text = |byte: &str| byte.repeat(LEN as usize);
        let mut f = Fixture::new(|root| fs::write(root.join("config.yaml"), text("1")).unwrap());
        // A file that is too new could change again without getting another time.
        assert!(look(&f) >= LEN);
        let deadline = Instant::now() + Duration::from_secs(60);
        while look(&f) >= LEN {
            assert!(Instant::now() < deadline, "read again and again");
            tokio::task::yield_now().await;
        }
        for round in 0..100 {
            f.write("gateway.log", &round.to_string());
            assert!(look(&f) < LEN / 100);
        }
        assert!(f.notices.try_recv().is_err());
        f.write("config.yaml", &text("2"));
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
