//! Two streams against each other, over pipes that the tests hand out.

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::task::coop::unconstrained;

use super::*;
use crate::crypto::Rc4;

const MINUTE: Duration = Duration::from_secs(60);

/// A connection whose system acknowledges all it takes.
struct Pipe(DuplexStream);

impl Connection for Pipe {
    fn undelivered(&self) -> usize {
        0
    }

    fn is_broken(&self) -> bool {
        false
    }

    fn abandon(self) {}

    fn read_now(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        // Whatever the scheduler has let the task read before.
        let reading = unconstrained(poll_fn(|cx| Pin::new(&mut *self).poll_read(cx, buf)));
        match std::pin::pin!(reading).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

type End = (Stream<Pipe>, Handle<Pipe>);

/// Both ends of a session over a pipe that holds `space` bytes in each direction.
fn session(space: usize, replay: usize) -> (End, End) {
    let cipher = || Some(Rc4::new(b"the same on both ends"));
    let (a, b) = duplex(space);
    let end = |pipe| {
        let core = Core::new(cipher(), cipher(), replay);
        Stream::new(core, Pipe(pipe), MINUTE)
    };
    (end(a), end(b))
}

/// Does what a handshake does: both ends tell each other how far they got.
async fn resume(a: &Handle<Pipe>, b: &Handle<Pipe>, space: usize) {
    let (near, far) = duplex(space);
    let (at_a, at_b) = (a.offer().await.unwrap(), b.offer().await.unwrap());
    let (a_has, b_has) = (at_a.received(), at_b.received());
    at_a.attach(Pipe(near), b_has).unwrap();
    at_b.attach(Pipe(far), a_has).unwrap();
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8).collect()
}

async fn read(stream: &mut (impl AsyncRead + Unpin), len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

/// Both have a full replay buffer of lost bytes, and a connection that holds one byte: each sends
/// again what the other lacks while it reads what it lacks itself.
#[tokio::test(start_paused = true)]
async fn both_ends_resend_everything_at_once() {
    const REPLAY: usize = 128 * 1024;
    for space in [1, 7, 4096] {
        // Half of it waits in the pipe, acknowledged and unread, the other half behind it.
        let ((mut a, to_a), (mut b, to_b)) = session(REPLAY / 2, REPLAY);
        let sent = pattern(3 * REPLAY);
        for (stream, handle) in [(&mut a, &to_a), (&mut b, &to_b)] {
            stream.write_all(&sent[..REPLAY]).await.unwrap();
            assert_eq!(stream.core().room(), 0);
            handle.cut();
        }
        let run = |stream: Stream<Pipe>| {
            let sent = sent.clone();
            tokio::spawn(async move {
                let (mut from, mut to) = split(stream);
                let writing = to.write_all(&sent[REPLAY..]);
                let reading = read(&mut from, sent.len());
                let (written, arrived) = tokio::join!(writing, reading);
                written.unwrap();
                assert!(arrived == sent);
                to.flush().await.unwrap();
                (from, to)
            })
        };
        let (a, b) = (run(a), run(b));
        let (at_a, at_b) = (to_a.offer().await.unwrap(), to_b.offer().await.unwrap());
        let (near, far) = duplex(space);
        assert_eq!((at_a.received(), at_b.received()), (0, 0));
        assert_eq!(at_a.attach(Pipe(near), 0), Ok(REPLAY as u64));
        assert_eq!(at_b.attach(Pipe(far), 0), Ok(REPLAY as u64));
        let done = async { (a.await.unwrap(), b.await.unwrap()) };
        tokio::time::timeout(MINUTE, done).await.unwrap();
    }
}

/// Who has sent a request and awaits the answer need not do more for it to be sent again.
#[tokio::test(start_paused = true)]
async fn a_reader_resends() {
    let ((mut a, to_a), (mut b, to_b)) = session(1, 1024);
    let reading = async {
        a.write_all(b"request").await.unwrap();
        read(&mut a, 6).await
    };
    let answering = async {
        assert_eq!(read(&mut b, 2).await, b"re");
        to_a.cut();
        to_b.cut();
        assert_eq!(read(&mut b, 5).await, b"quest");
        b.write_all(b"answer").await.unwrap();
        b.flush().await.unwrap();
        std::future::pending::<()>().await
    };
    let resuming = async {
        to_b.detached().await.unwrap();
        to_a.detached().await.unwrap();
        resume(&to_a, &to_b, 1).await;
        std::future::pending::<()>().await
    };
    let answer = tokio::select! {
        answer = reading => answer,
        () = answering => unreachable!(),
        () = resuming => unreachable!(),
    };
    assert_eq!(answer, b"answer");
}

/// An offer stops nothing, and what moves after it is neither lost nor doubled.
#[tokio::test(start_paused = true)]
async fn the_session_goes_on_after_an_offer() {
    let ((mut a, to_a), (mut b, to_b)) = session(64, 1024);
    a.write_all(b"one ").await.unwrap();
    assert_eq!(read(&mut b, 4).await, b"one ");
    let (at_a, at_b) = (to_a.offer(), to_b.offer());
    let (at_a, at_b) = (
        a.attend(at_a).await.unwrap().unwrap(),
        b.attend(at_b).await.unwrap().unwrap(),
    );
    a.write_all(b"two ").await.unwrap();
    assert_eq!(read(&mut b, 4).await, b"two ");
    b.write_all(b"back ").await.unwrap();
    assert_eq!(read(&mut a, 5).await, b"back ");

    let (near, far) = duplex(64);
    at_a.attach(Pipe(near), at_b.received()).unwrap();
    at_b.attach(Pipe(far), 0).unwrap();
    a.write_all(b"three").await.unwrap();
    b.write_all(b"again").await.unwrap();
    assert_eq!(read(&mut b, 5).await, b"three");
    assert_eq!(read(&mut a, 5).await, b"again");
    assert_eq!((a.resumes(), b.resumes()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_offer_that_is_dropped_changes_nothing() {
    let ((mut a, to_a), (mut b, _)) = session(64, 1024);
    for _ in 0..3 {
        let offer = to_a.offer();
        drop(a.attend(offer).await.unwrap().unwrap());
    }
    a.write_all(b"on").await.unwrap();
    assert_eq!(read(&mut b, 2).await, b"on");
    assert_eq!(a.resumes(), 0);
}

/// What has been delivered counts as received although nobody has read it.
#[tokio::test(start_paused = true)]
async fn an_offer_counts_what_was_delivered() {
    let ((mut a, _), (mut b, to_b)) = session(32 << 20, 32 << 20);
    let sent = pattern(12 << 20);
    a.write_all(&sent).await.unwrap();
    let offer = to_b.offer();
    let first = b.attend(offer).await.unwrap().unwrap().received();
    assert_eq!(first, sent.len() as u64);
    // With so much unread no further connection is taken, until it is read.
    let mut second = std::pin::pin!(to_b.offer());
    let polled = poll_fn(|cx| Poll::Ready(second.as_mut().poll(cx))).await;
    assert!(polled.is_pending());
    let (unread, rest) = (DRAINED + 16 * 1024, DRAINED - 1);
    assert!(read(&mut b, sent.len() - unread).await == sent[..sent.len() - unread]);
    let polled = poll_fn(|cx| Poll::Ready(second.as_mut().poll(cx))).await;
    assert!(polled.is_pending());
    let from = sent.len() - unread;
    assert!(read(&mut b, unread - rest).await == sent[from..sent.len() - rest]);
    assert_eq!(second.await.unwrap().received(), first);
    assert!(read(&mut b, rest).await == sent[sent.len() - rest..]);
}

/// However often its connection is cut and however much each has acknowledged, a reader that waits
/// loses nothing; nor does the session end while its peer tries to come back.
#[tokio::test(start_paused = true)]
async fn what_each_connection_delivered_is_kept_for_a_late_reader() {
    const EACH: usize = 3 << 20;
    let ((mut a, to_a), (mut b, to_b)) = session(EACH, 64 * 1024);
    b.resume_wait = MINUTE / 4;
    let sent = pattern(4 * EACH);
    let late = Arc::new(tokio::sync::Notify::new());
    let reading = tokio::spawn({
        let late = late.clone();
        async move {
            b.attend(late.notified()).await.unwrap();
            read(&mut b, 4 * EACH).await
        }
    });
    for (n, part) in sent.chunks(EACH).enumerate() {
        a.write_all(part).await.unwrap();
        if n == 3 {
            break;
        }
        to_a.cut();
        let mut resuming = std::pin::pin!(a.attend(resume(&to_a, &to_b, EACH)));
        if n == 2 {
            let waiting = tokio::time::timeout(MINUTE / 2, &mut resuming).await;
            assert!(waiting.is_err(), "there is no room for more");
            late.notify_one();
        }
        resuming.await.unwrap();
    }
    assert!(reading.await.unwrap() == sent);
}

/// A connection that breaks under a writer has delivered what it has delivered, however much the
/// task has done before.
#[tokio::test(start_paused = true)]
async fn what_came_before_a_failed_write() {
    let ((mut a, _), (mut b, to_b)) = session(4 << 20, 8 << 20);
    let sent = pattern(4 << 20);
    b.write_all(&sent).await.unwrap();
    to_b.cut();
    let offered = to_b.offer();
    b.attend(offered).await.unwrap().unwrap();
    assert!(b.connection().is_none());
    a.write_all(b"x").await.unwrap();
    assert!(a.connection().is_none());
    assert_eq!(a.core().received(), sent.len() as u64);
    assert!(read(&mut a, sent.len()).await == sent);
}

#[tokio::test(start_paused = true)]
async fn of_two_connections_the_last_wins() {
    let ((mut a, to_a), (_b, _)) = session(64, 1024);
    let first = to_a.offer();
    let first = a.attend(first).await.unwrap().unwrap();
    let second = to_a.offer();
    let second = a.attend(second).await.unwrap().unwrap();
    let ((near_1, mut far_1), (near_2, mut far_2)) = (duplex(64), duplex(64));
    second.attach(Pipe(near_2), 0).unwrap();
    first.attach(Pipe(near_1), 0).unwrap();
    a.write_all(b"x").await.unwrap();
    assert_eq!(read(&mut far_1, 1).await.len(), 1);
    let mut rest = Vec::new();
    assert_eq!(far_2.read_to_end(&mut rest).await.unwrap(), 0, "closed");
    assert_eq!(a.resumes(), 2);
}

/// While the peer proves who it is, the session sends so much over its old connection that the
/// peer can no longer be served.
#[tokio::test(start_paused = true)]
async fn an_offer_that_came_too_late() {
    let ((mut a, to_a), (mut b, _)) = session(4096, 1024);
    let offer = to_a.offer();
    let offer = a.attend(offer).await.unwrap().unwrap();
    a.write_all(&[7; 1025]).await.unwrap();
    let (near, mut far) = duplex(64);
    offer.attach(Pipe(near), 0).unwrap();
    a.write_all(b"on").await.unwrap();
    assert_eq!(read(&mut b, 1027).await.last(), Some(&b'n'));
    let mut rest = Vec::new();
    assert_eq!(far.read_to_end(&mut rest).await.unwrap(), 0, "closed");
    assert_eq!(a.resumes(), 0);
    // Without a connection there is none afterwards either, and the handle says so.
    let offer = to_a.offer();
    let offer = a.attend(offer).await.unwrap().unwrap();
    let received = offer.sent();
    a.write_all(&[7; 1025]).await.unwrap();
    to_a.cut();
    let (near, mut far) = duplex(64);
    offer.attach(Pipe(near), received).unwrap();
    a.write_all(b"x").await.unwrap();
    assert!(a.connection().is_none());
    assert_eq!(far.read_to_end(&mut rest).await.unwrap(), 0, "closed");
    to_a.detached().await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Two streams, each with a reader and a writer, that are cut at any time.
    #[test]
    fn no_byte_is_lost(
        len in 1usize..20_000,
        space in 1usize..3000,
        cuts in proptest::collection::vec((any::<bool>(), 0usize..50), 0..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let ((a, to_a), (b, to_b)) = session(space, 8 * 1024);
            let sent = pattern(len);
            let run = |stream: Stream<Pipe>| {
                let sent = sent.clone();
                tokio::spawn(async move {
                    let (mut from, mut to) = split(stream);
                    let (written, arrived) =
                        tokio::join!(to.write_all(&sent), read(&mut from, sent.len()));
                    written.unwrap();
                    assert!(arrived == sent);
                    to.flush().await.unwrap();
                    // What this end has yet to send again is sent by reading.
                    (from.read(&mut [0]).await, to)
                })
            };
            let ends = [run(a), run(b)];
            for (cut_both, steps) in cuts {
                for _ in 0..steps {
                    tokio::task::yield_now().await;
                }
                // The one that comes back has lost its connection, the other may not know.
                to_a.cut();
                if cut_both {
                    to_b.cut();
                }
                resume(&to_a, &to_b, space).await;
            }
            // The streams outlive their bytes; paused time passes once nothing is left to do.
            tokio::time::sleep(Duration::from_secs(1)).await;
            for end in &ends {
                assert!(!end.is_finished(), "both wait for more");
            }
            to_a.refused(Refusal::BytesLost);
            to_b.refused(Refusal::BytesLost);
            for end in ends {
                end.await.unwrap().0.unwrap_err();
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_gives_memory_back_when_it_is_asked() {
    let memory = Arc::new(super::super::Memory::new());
    memory.set_limit(Some(1 << 20));
    let (near, far) = duplex(128 * 1024);
    let core = || Core::new(None, None, 64 * 1024);
    let (mut a, to_a) = Stream::new(core().within(memory.clone()), Pipe(near), MINUTE);
    let (mut b, to_b) = Stream::new(core(), Pipe(far), MINUTE);
    assert_eq!((to_a.spare().bytes, memory.used()), (0, 0));
    a.write_all(&pattern(20_000)).await.unwrap();
    assert_eq!((to_a.spare().bytes, memory.used()), (32_768, 32_768));
    // Whether it has a connection or not; but what is to be sent again stays.
    for away in [false, true] {
        if away {
            to_a.cut();
            a.write_all(&pattern(20_000)).await.unwrap();
        }
        to_a.shrink();
        assert_eq!(to_a.spare().bytes, 0);
        let attending = a.attend(tokio::task::yield_now()).await;
        assert!(attending.is_some());
        assert_eq!(memory.used(), if away { 32_768 } else { 0 });
        if !away {
            assert_eq!(read(&mut b, 20_000).await, pattern(20_000));
        }
    }
    let attending = tokio::spawn(async move {
        let got = b.attend(std::future::pending::<()>());
        tokio::select! { _ = got => {}, () = sleep(Duration::from_secs(1)) => {} }
        b
    });
    let resuming = resume(&to_a, &to_b, 64 * 1024);
    assert!(a.attend(resuming).await.is_some());
    let mut b = attending.await.unwrap();
    a.flush().await.unwrap();
    assert_eq!(read(&mut b, 20_000).await, pattern(20_000));
    assert!(to_a.spare().bytes > 0, "it can be asked again");
}
