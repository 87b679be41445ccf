//! Running the work of a session's task, until something else ends it.

use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use super::record::Record;
use crate::gateway::shutdown::Shutdown;

/// Cause that ends a session before its work is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum Stopped {
    Kicked,
    Shutdown,
    /// The session's task panicked.
    Fault,
}

/// Runs the work of a session's task until the session is kicked or the gateway shuts down.
///
/// A panic ends the work, too; the task goes on, to report the end.
pub(in crate::gateway) async fn run<F: Future>(
    shutdown: &Shutdown,
    record: &Record,
    future: F,
) -> Result<F::Output, Stopped> {
    match caught(shutdown.interrupts(record.until_kicked(future))).await {
        Some(Some(Some(output))) => Ok(output),
        Some(Some(None)) => Err(Stopped::Kicked),
        Some(None) => Err(Stopped::Shutdown),
        None => Err(Stopped::Fault),
    }
}

impl Stopped {
    /// Returns a stable label for logs, hooks and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Kicked => "kicked",
            Self::Shutdown => "shutdown",
            Self::Fault => "fault",
        }
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kicked => "ended over the admin interface",
            Self::Shutdown => "the gateway shuts down",
            Self::Fault => "a fault of the gateway, which the log tells of",
        })
    }
}

/// Runs `future`. Returns `None` if it panics.
async fn caught<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        // After a panic the state of the future may be half done: its counts are read, no more.
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        match polled {
            Ok(polled) => polled.map(Some),
            Err(_) => Poll::Ready(None),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::path::Path;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, RawWaker, RawWakerVTable, Waker};
    use std::time::{Duration, Instant};

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpStream;
    use tokio::task::yield_now;

    use crate::config::Config;
    use crate::config::diff::BindKey;
    use crate::gateway::Gateway;
    use crate::gateway::live::Client;
    use crate::gateway::proxy::{Opened, Session};
    use crate::hooks::chain::{Chain, ChainEntry};
    use crate::hooks::spec::OnError;
    use crate::hooks::stats::HookStats;
    use crate::hooks::{Answer, Attrs, Call, Ended, Hook, Question, Reply, SessionInfo};
    use crate::sync::Mutex;
    use crate::transport::{self, tcp};

    const CONFIG: &str = "admin: ''
listeners:
  - {name: game, bind: ['tcp://127.0.0.1:0'], session: plain, limits: {connections: 1}}
hosts: [{name: echo, addr: 'builtin:echo'}]
";

    /// Hook that lets sessions in, or panics instead, and notes how they end.
    struct Faulty {
        panics: bool,
        told: Arc<Mutex<Vec<Ended>>>,
    }

    impl Hook for Faulty {
        fn name(&self) -> &str {
            "faulty"
        }

        fn call(&self, call: Call) -> Pin<Box<dyn Future<Output = Reply> + Send>> {
            let (panics, told) = (self.panics, self.told.clone());
            Box::pin(async move {
                match call.question {
                    Question::Access if panics => panic!("a fault of the hook"),
                    Question::Closed(ended) => told.lock().push(ended),
                    _ => {}
                }
                Reply {
                    answer: Ok(Answer::Pass),
                    attrs: Attrs::new(),
                    cost: Duration::ZERO,
                }
            })
        }
    }

    /// Gateway, with a client, its session, and the ends that the session's hook was told.
    struct Stage {
        gateway: Arc<Gateway>,
        client: TcpStream,
        connection: Option<tcp::Stream>,
        told: Arc<Mutex<Vec<Ended>>>,
    }

    impl Stage {
        async fn new() -> Self {
            let config = Config::parse(CONFIG, Path::new("config.yaml")).unwrap();
            let listener = tcp::Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), None).unwrap();
            let addr = listener.local_addr().unwrap();
            Self {
                gateway: Gateway::builder(config).start().await.unwrap(),
                client: TcpStream::connect(addr).await.unwrap(),
                connection: Some(listener.accept().await.unwrap()),
                told: Arc::default(),
            }
        }

        /// Opens the session, if its hook lets it in.
        async fn open(&mut self, panics: bool) -> Option<Box<Opened>> {
            let state = self.gateway.state();
            let generation = self.gateway.generation();
            let key = &BindKey::of(&generation.config.listeners[0])[0];
            let (listener, _) = generation.listener(key).unwrap();
            let admission = generation.admission(key).unwrap();
            let mut permit = admission.begin(&listener.limits).unwrap();
            let source = IpAddr::from(Ipv4Addr::LOCALHOST);
            permit
                .identify(&listener.limits, source, Instant::now())
                .unwrap();
            permit.admit(&listener.limits).unwrap();
            let connection = self.connection.take().unwrap();
            let info = Arc::new(SessionInfo {
                id: state.live.number(),
                ..SessionInfo::new("game", connection.peer_addr(), connection.local_addr())
            });
            let told = self.told.clone();
            let chain = Arc::new(Chain::new(vec![ChainEntry {
                hook: Arc::new(Faulty { panics, told }),
                on_error: OnError::Deny,
                stats: Arc::new(HookStats::new("faulty")),
            }]));
            let session = Session {
                state,
                generation: &generation,
                listener,
                chain: &chain,
                client: Client::Plain(transport::Stream::Tcp(connection)),
                info: info.clone(),
                registration: state.live.enter(info, 1),
                guard: None,
                permit,
            };
            session.open().await
        }

        /// Checks that nothing is left of the session but the report of its end.
        async fn check(mut self) {
            let reasons: Vec<_> = self.told.lock().iter().map(|ended| ended.reason).collect();
            assert_eq!(reasons, ["fault"]);
            assert_eq!(self.gateway.sessions(), 0);
            let closed = self.gateway.state().metrics.closed.with(["game", "fault"]);
            assert_eq!(closed.get(), 1);
            let ended = self.gateway.state().live.ended();
            assert_eq!(ended[0].story().ended.as_ref().unwrap().reason, "fault");
            let read = self.client.read(&mut [0]).await;
            assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
            let generation = self.gateway.generation();
            let (listener, admission) = generation.admissions().next().unwrap();
            let mut permit = admission.begin(&listener.limits).unwrap();
            let source = IpAddr::from(Ipv4Addr::LOCALHOST);
            permit
                .identify(&listener.limits, source, Instant::now())
                .unwrap();
            assert_eq!(permit.admit(&listener.limits), Ok(()), "its place is free");
        }
    }

    #[tokio::test]
    async fn a_session_whose_hook_panics_ends_like_any_other() {
        let mut stage = Stage::new().await;
        assert!(stage.open(true).await.is_none());
        stage.check().await;
    }

    /// Returns a waker that panics when it is first cloned, and then does nothing.
    fn faulty_waker(sound: &'static AtomicBool) -> Waker {
        static TABLE: RawWakerVTable = RawWakerVTable::new(clone, |_| {}, |_| {}, |_| {});
        fn clone(sound: *const ()) -> RawWaker {
            // SAFETY: it was made of a reference that lives for ever.
            let is_sound = unsafe { &*sound.cast::<AtomicBool>() };
            assert!(
                is_sound.swap(true, Ordering::Relaxed),
                "a fault of the waker"
            );
            RawWaker::new(sound, &TABLE)
        }
        // SAFETY: the table asks nothing of its data but that it lives, and may be called by any
        // thread.
        unsafe { Waker::new(std::ptr::from_ref(sound).cast(), &TABLE) }
    }

    #[tokio::test]
    async fn a_session_that_panics_later_ends_like_any_other() {
        static SOUND: AtomicBool = AtomicBool::new(false);
        let mut stage = Stage::new().await;
        let opened = stage.open(false).await.unwrap();
        let waker = faulty_waker(&SOUND);
        let mut running = Box::pin(opened.run());
        while running
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
        {
            yield_now().await;
        }
        assert!(SOUND.load(Ordering::Relaxed), "it has panicked");
        stage.check().await;
    }
}
