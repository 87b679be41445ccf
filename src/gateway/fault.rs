//! Panics of a session's task.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

/// Runs `future`. `None` if it panics: the task goes on, to tell of the end of its session.
pub(super) async fn caught<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        // What the future had in its hands may be half done: it is counted, but used no more.
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
    use std::pin::Pin;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};
    use std::task::{Context, RawWaker, RawWakerVTable, Waker};
    use std::time::{Duration, Instant};

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpStream;
    use tokio::task::yield_now;

    use super::super::client::Client;
    use super::super::live::Registration;
    use super::super::session::{Opened, Session};
    use super::super::{Gateway, lock};
    use crate::config::OnError;
    use crate::config::diff::BindKey;
    use crate::hooks::chain::{Chain, Link};
    use crate::hooks::stats::HookStats;
    use crate::hooks::{Answer, Attrs, Call, Ended, Hook, Question, Reply, SessionInfo};
    use crate::transport::{self, tcp};

    const CONFIG: &str = "admin: ''
listeners:
  - {name: game, bind: ['tcp://127.0.0.1:0'], session: plain, limits: {connections: 1}}
hosts: [{name: echo, addr: 'builtin:echo'}]
";

    /// Lets sessions in, or panics instead, and notes how they end.
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
                    Question::Closed(ended) => lock(&told).push(ended),
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

    /// A gateway, a client of a session on it, and what is told of that session's end.
    struct Stage {
        gateway: Arc<Gateway>,
        client: TcpStream,
        connection: Option<tcp::Stream>,
        told: Arc<Mutex<Vec<Ended>>>,
        _directory: tempfile::TempDir,
    }

    impl Stage {
        async fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("config.yaml");
            std::fs::write(&path, CONFIG).unwrap();
            let listener = tcp::Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), None).unwrap();
            let addr = listener.local_addr().unwrap();
            Self {
                gateway: Gateway::start(path).await.unwrap(),
                client: TcpStream::connect(addr).await.unwrap(),
                connection: Some(listener.accept().await.unwrap()),
                told: Arc::default(),
                _directory: directory,
            }
        }

        /// Opens the session, as far as its hook lets it.
        async fn open(&mut self, panics: bool) -> Option<Box<Opened>> {
            let state = &self.gateway.state;
            let generation = self.gateway.generation();
            let key = &BindKey::of(&generation.config.listeners[0])[0];
            let (listener, _) = generation.listener(key).unwrap();
            let mut place = generation
                .gate(key)
                .unwrap()
                .knock(&listener.limits)
                .unwrap();
            let source = IpAddr::from(Ipv4Addr::LOCALHOST);
            place
                .identify(&listener.limits, source, Instant::now())
                .unwrap();
            place.admit(&listener.limits).unwrap();
            let connection = self.connection.take().unwrap();
            let info = Arc::new(SessionInfo {
                id: state.live.number(),
                listener: "game".into(),
                session: "plain",
                transport: "tcp",
                client_addr: connection.peer_addr(),
                gateway_addr: connection.local_addr(),
                target: None,
                flags: 0,
                extra: Default::default(),
                first_data: None,
                fastway: None,
            });
            let told = self.told.clone();
            let chain = Arc::new(Chain::new(vec![Link {
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
                registration: Registration::new(state, info, 1),
                listing: None,
                place,
            };
            session.open().await
        }

        /// Nothing is left of the session but word of its end.
        async fn check(mut self) {
            let reasons: Vec<_> = lock(&self.told).iter().map(|ended| ended.reason).collect();
            assert_eq!(reasons, ["fault"]);
            assert_eq!(self.gateway.sessions(), 0);
            let closed = self.gateway.state.metrics.closed.with(["game", "fault"]);
            assert_eq!(closed.get(), 1);
            let ended = self.gateway.state.live.ended();
            assert_eq!(ended[0].story().ended.as_ref().unwrap().reason, "fault");
            let read = self.client.read(&mut [0]).await;
            assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
            let generation = self.gateway.generation();
            let (listener, gate) = generation.gates().next().unwrap();
            let mut place = gate.knock(&listener.limits).unwrap();
            let source = IpAddr::from(Ipv4Addr::LOCALHOST);
            place
                .identify(&listener.limits, source, Instant::now())
                .unwrap();
            assert_eq!(place.admit(&listener.limits), Ok(()), "its place is free");
        }
    }

    #[tokio::test]
    async fn a_session_whose_hook_panics_ends_like_any_other() {
        let mut stage = Stage::new().await;
        assert!(stage.open(true).await.is_none());
        stage.check().await;
    }

    /// A waker that panics when it is first cloned, and then does nothing.
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
