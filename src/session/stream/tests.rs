//! Tests of two streams against each other, over pipes that the tests hand out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::task::coop::unconstrained;

use super::*;
use crate::crypto::Rc4;

const MINUTE: Duration = Duration::from_secs(60);

/// Connection whose system acknowledges all bytes, with the bytes that were counted as unread.
struct Pipe(Mutex<(DuplexStream, BytesMut)>);

impl Pipe {
    fn new(pipe: DuplexStream) -> Self {
        Self(Mutex::new((pipe, BytesMut::new())))
    }

    fn inner(&mut self) -> &mut (DuplexStream, BytesMut) {
        self.0.get_mut().unwrap()
    }
}

impl Connection for Pipe {
    fn unacked(&self) -> usize {
        0
    }

    fn is_broken(&self) -> bool {
        false
    }

    fn abandon(&mut self) {}

    fn unread(&self) -> usize {
        let (pipe, seen) = &mut *self.0.lock().unwrap();
        loop {
            // Not limited by the scheduler's budget for reads of this task.
            let mut reading = std::pin::pin!(unconstrained(pipe.read_buf(seen)));
            match reading
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
            {
                Poll::Ready(Ok(1..)) => {}
                _ => return seen.len(),
            }
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (pipe, seen) = self.inner();
        if seen.is_empty() {
            return Pin::new(pipe).poll_read(cx, buf);
        }
        let len = seen.len().min(buf.remaining());
        buf.put_slice(&seen.split_to(len));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner().0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner().0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner().0).poll_shutdown(cx)
    }
}

type End = (Stream<Pipe>, Handle<Pipe>);

/// Creates both ends of a session over a pipe that holds `space` bytes in each direction.
fn session(space: usize, replay: usize) -> (End, End) {
    let cipher = || Some(Rc4::new(b"the same on both ends"));
    let (a, b) = duplex(space);
    let end = |pipe| {
        let core = Core::new(cipher(), cipher(), replay);
        Stream::new(core, Pipe::new(pipe), MINUTE)
    };
    (end(a), end(b))
}

/// Resumes as a handshake would: both ends exchange their received counts.
async fn resume(a: &Handle<Pipe>, b: &Handle<Pipe>, space: usize) {
    let (near, far) = duplex(space);
    let (at_a, at_b) = (a.offer().await.unwrap(), b.offer().await.unwrap());
    let (a_has, b_has) = (at_a.received(), at_b.received());
    at_a.attach(Pipe::new(near), b_has).unwrap();
    at_b.attach(Pipe::new(far), a_has).unwrap();
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8).collect()
}

async fn read(stream: &mut (impl AsyncRead + Unpin), len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

/// Checks that both ends resend a full replay buffer over a connection that holds one byte.
///
/// Each end sends what the other lacks while it reads what it lacks itself.
#[tokio::test(start_paused = true)]
async fn both_ends_resend_everything_at_once() {
    const REPLAY: usize = 128 * 1024;
    for space in [1, 7, 4096] {
        // Half of the bytes wait in the pipe, acknowledged and unread, the other half behind them.
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
        assert_eq!(at_a.attach(Pipe::new(near), 0), Ok(REPLAY as u64));
        assert_eq!(at_b.attach(Pipe::new(far), 0), Ok(REPLAY as u64));
        let done = async { (a.await.unwrap(), b.await.unwrap()) };
        tokio::time::timeout(MINUTE, done).await.unwrap();
    }
}

/// Checks that an end that only reads resends a lost request.
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

/// Checks that bytes moved after an offer are neither lost nor doubled.
#[tokio::test(start_paused = true)]
async fn the_session_goes_on_after_an_offer() {
    let ((mut a, to_a), (mut b, to_b)) = session(64, 1024);
    a.write_all(b"one ").await.unwrap();
    assert_eq!(read(&mut b, 4).await, b"one ");
    let (at_a, at_b) = (to_a.offer(), to_b.offer());
    let (at_a, at_b) = (
        a.drive(at_a).await.unwrap().unwrap(),
        b.drive(at_b).await.unwrap().unwrap(),
    );
    a.write_all(b"two ").await.unwrap();
    assert_eq!(read(&mut b, 4).await, b"two ");
    b.write_all(b"back ").await.unwrap();
    assert_eq!(read(&mut a, 5).await, b"back ");

    let (near, far) = duplex(64);
    at_a.attach(Pipe::new(near), at_b.received()).unwrap();
    at_b.attach(Pipe::new(far), 0).unwrap();
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
        drop(a.drive(offer).await.unwrap().unwrap());
    }
    a.write_all(b"on").await.unwrap();
    assert_eq!(read(&mut b, 2).await, b"on");
    assert_eq!(a.resumes(), 0);
}

/// Checks that unread delivered bytes count as received, and as memory only after the connection is
/// lost.
#[tokio::test(start_paused = true)]
async fn an_offer_counts_what_was_delivered() {
    const MUCH: usize = UNREAD as usize;
    let ((mut a, to_a), (mut b, to_b)) = session(8 * MUCH, 8 * MUCH);
    let sent = pattern(2 * MUCH + 2);
    a.write_all(&sent[..2 * MUCH]).await.unwrap();
    let offer = to_b.offer();
    let first = b.drive(offer).await.unwrap().unwrap();
    assert_eq!((first.received(), b.held()), (2 * MUCH as u64, 0));
    b.drive(a.drive(resume(&to_a, &to_b, 64)))
        .await
        .unwrap()
        .unwrap();
    b.drive(tokio::task::yield_now()).await.unwrap();
    assert_eq!((b.resumes(), b.held(), b.memory()), (1, 2 * MUCH, 2 * MUCH));
    // With that many unread bytes, no connection that has delivered more is replaced.
    a.write_all(&sent[2 * MUCH..]).await.unwrap();
    let mut second = std::pin::pin!(to_b.offer());
    let waiting = b.drive(tokio::time::timeout(MINUTE, &mut second)).await;
    assert!(waiting.unwrap().is_err());
    let rest = MUCH - 2;
    let len = 2 * MUCH - rest;
    assert!(read(&mut b, len).await == sent[..len]);
    assert_eq!(second.await.unwrap().received(), sent.len() as u64);
    assert!(read(&mut b, rest + 2).await == sent[len..]);
    assert_eq!((b.held(), b.memory()), (0, 0));
    // Nor do the bytes count when the first offer is attached.
    let (_near, far) = duplex(64);
    first.attach(Pipe::new(far), 0).unwrap();
    b.drive(tokio::task::yield_now()).await.unwrap();
    assert_eq!((b.resumes(), b.held()), (2, 0));
}

/// Checks that a peer without a connection gets one whatever is unread, as the reader may wait for
/// it.
#[tokio::test(start_paused = true)]
async fn a_peer_without_a_connection_never_waits() {
    let ((mut a, to_a), (mut b, to_b)) = session(4096, 64 * 1024);
    let sent = pattern(3 * LOST * 10);
    for part in sent.chunks(10) {
        a.write_all(part).await.unwrap();
        // This end notices that its connection is lost.
        b.lose_connection();
        assert!(b.connection().is_none());
        b.drive(a.drive(resume(&to_a, &to_b, 4096)))
            .await
            .unwrap()
            .unwrap();
        b.drive(tokio::task::yield_now()).await.unwrap();
    }
    assert_eq!(b.held(), sent.len());
    assert!(read(&mut b, sent.len()).await == sent);
}

/// Checks how many lost connections with few unread bytes are kept.
#[tokio::test(start_paused = true)]
async fn so_many_lost_connections_are_kept() {
    let ((mut a, to_a), (mut b, to_b)) = session(4096, 64 * 1024);
    let sent = pattern((LOST + 1) * 10);
    for (n, part) in sent.chunks(10).enumerate() {
        a.write_all(part).await.unwrap();
        let resuming = a.drive(resume(&to_a, &to_b, 4096));
        let resuming = b.drive(tokio::time::timeout(MINUTE / 2, resuming));
        assert_eq!(resuming.await.unwrap().is_ok(), n < LOST);
        b.drive(tokio::task::yield_now()).await.unwrap();
        assert_eq!(b.replaced.len(), (n + 1).min(LOST));
    }
    assert!(read(&mut b, sent.len()).await == sent);
}

/// Checks that a late reader loses no byte of several lost connections.
///
/// The session does not end while its peer tries to resume.
#[tokio::test(start_paused = true)]
async fn what_each_connection_delivered_is_kept_for_a_late_reader() {
    const EACH: usize = UNREAD as usize / 2 + 1;
    let memory = Arc::new(Memory::new());
    let ((mut a, to_a), (mut b, to_b)) = session(EACH, 64 * 1024);
    b.core =
        Core::new(Some(Rc4::new(b"the same on both ends")), None, 64 * 1024).within(memory.clone());
    b.resume_wait = MINUTE / 4;
    let sent = pattern(4 * EACH);
    let late = Arc::new(tokio::sync::Notify::new());
    let reading = tokio::spawn({
        let late = late.clone();
        async move {
            b.drive(late.notified()).await.unwrap();
            read(&mut b, 4 * EACH).await
        }
    });
    for (n, part) in sent.chunks(EACH).enumerate() {
        a.write_all(part).await.unwrap();
        if n == 3 {
            break;
        }
        to_a.cut();
        let mut resuming = std::pin::pin!(a.drive(resume(&to_a, &to_b, EACH)));
        if n == 1 {
            let waiting = tokio::time::timeout(MINUTE / 2, &mut resuming).await;
            assert!(waiting.is_err(), "there is no room for more");
            assert_eq!(memory.used(), EACH);
            late.notify_one();
        }
        resuming.await.unwrap();
    }
    assert!(reading.await.unwrap() == sent);
    assert_eq!(memory.used(), 0);
}

/// Checks that one lost connection is kept while memory is short, and no further one.
#[tokio::test(start_paused = true)]
async fn without_memory_little_is_left_behind() {
    let memory = Arc::new(Memory::new());
    let (near, far) = duplex(1024);
    let core = || Core::new(None, None, 1024).within(memory.clone());
    let (mut a, to_a) = Stream::new(core(), Pipe::new(near), MINUTE);
    let (mut b, to_b) = Stream::new(core(), Pipe::new(far), MINUTE);
    memory.set_limit(Some(0));
    a.write_all(b"one").await.unwrap();
    b.drive(a.drive(resume(&to_a, &to_b, 64)))
        .await
        .unwrap()
        .unwrap();
    b.drive(tokio::task::yield_now()).await.unwrap();
    a.write_all(b"two").await.unwrap();
    let mut offer = std::pin::pin!(to_b.offer());
    let waiting = tokio::time::timeout(MINUTE, &mut offer);
    assert!(b.drive(waiting).await.unwrap().is_err());
    assert_eq!(read(&mut b, 6).await, b"onetwo");
    assert_eq!(offer.await.unwrap().received(), 6);
}

/// Checks that bytes delivered before a failed write are read, whether or not the session resumes.
#[tokio::test(start_paused = true)]
async fn what_came_before_a_failed_write() {
    const MUCH: usize = UNREAD as usize;
    for comes_back in [true, false] {
        let ((mut a, to_a), (mut b, to_b)) = session(2 * MUCH, 4 * MUCH);
        let sent = pattern(MUCH);
        b.write_all(&sent).await.unwrap();
        to_b.cut();
        let offered = to_b.offer();
        b.drive(offered).await.unwrap().unwrap();
        assert!(b.connection().is_none());
        a.write_all(b"x").await.unwrap();
        assert!(a.connection().is_none());
        assert_eq!(
            (a.memory() - a.core().replay_memory(), a.held()),
            (MUCH, MUCH)
        );
        to_a.detached().await.unwrap();
        if comes_back {
            let resuming = resume(&to_a, &to_b, 64);
            let resuming = b.drive(a.drive(resuming));
            assert!(resuming.await.unwrap().is_some());
            b.write_all(b"on").await.unwrap();
        } else {
            to_a.refused(Refusal::BytesLost);
        }
        assert!(read(&mut a, MUCH).await == sent);
        assert_eq!(a.held(), 0);
        let mut rest = [0; 2];
        match a.read_exact(&mut rest).await {
            Ok(_) => assert!(comes_back && rest == *b"on"),
            Err(error) => assert!(!comes_back, "{error}"),
        }
    }
}

/// Checks that a finishing session reads lost connections before it reports its received count.
#[tokio::test(start_paused = true)]
async fn a_session_that_finishes_counts_what_was_left_behind() {
    let ((mut a, to_a), (mut b, to_b)) = session(1024, 1024);
    a.write_all(&[1; 400]).await.unwrap();
    b.write_all(b"the end").await.unwrap();
    assert!(b.drive(a.drive(resume(&to_a, &to_b, 1024))).await.is_some());
    b.drive(tokio::task::yield_now()).await.unwrap();
    assert_eq!(b.held(), 400);
    a.write_all(&[1; 40]).await.unwrap();
    assert_eq!(read(&mut a, 7).await, b"the end");
    a.write_all(&[1; 4]).await.unwrap();
    let finishing = poll_fn(|cx| b.poll_finish(cx));
    let resuming = a.drive(resume(&to_a, &to_b, 1024));
    tokio::select! {
        delivered = finishing => panic!("{delivered}"),
        resumed = resuming => resumed.unwrap(),
    }
    assert_eq!(b.core().received(), 444);
    let finishing = poll_fn(|cx| b.poll_finish(cx));
    let (delivered, _) = tokio::join!(finishing, async {
        let mut end = [0];
        tokio::select! {
            _ = a.read(&mut end) => {}
            _ = to_a.detached() => {}
        }
        drop(a);
    });
    assert!(delivered);
}

#[tokio::test(start_paused = true)]
async fn of_two_connections_the_last_wins() {
    let ((mut a, to_a), (_b, _)) = session(64, 1024);
    let first = to_a.offer();
    let first = a.drive(first).await.unwrap().unwrap();
    let second = to_a.offer();
    let second = a.drive(second).await.unwrap().unwrap();
    let ((near_1, mut far_1), (near_2, mut far_2)) = (duplex(64), duplex(64));
    second.attach(Pipe::new(near_2), 0).unwrap();
    first.attach(Pipe::new(near_1), 0).unwrap();
    a.write_all(b"x").await.unwrap();
    assert_eq!(read(&mut far_1, 1).await.len(), 1);
    let mut rest = Vec::new();
    assert_eq!(far_2.read_to_end(&mut rest).await.unwrap(), 0, "closed");
    assert_eq!(a.resumes(), 2);
}

/// Checks an attach that comes after the bytes the peer lacks were dropped.
#[tokio::test(start_paused = true)]
async fn an_offer_that_came_too_late() {
    let ((mut a, to_a), (mut b, _)) = session(4096, 1024);
    let offer = to_a.offer();
    let offer = a.drive(offer).await.unwrap().unwrap();
    a.write_all(&[7; 1025]).await.unwrap();
    let (near, mut far) = duplex(64);
    offer.attach(Pipe::new(near), 0).unwrap();
    a.write_all(b"on").await.unwrap();
    assert_eq!(read(&mut b, 1027).await.last(), Some(&b'n'));
    let mut rest = Vec::new();
    assert_eq!(far.read_to_end(&mut rest).await.unwrap(), 0, "closed");
    assert_eq!(a.resumes(), 0);
    // A session without a connection still has none afterwards, and the handle reports that.
    let offer = to_a.offer();
    let offer = a.drive(offer).await.unwrap().unwrap();
    let received = offer.sent();
    a.write_all(&[7; 1025]).await.unwrap();
    to_a.cut();
    let (near, mut far) = duplex(64);
    offer.attach(Pipe::new(near), received).unwrap();
    a.write_all(b"x").await.unwrap();
    assert!(a.connection().is_none());
    assert_eq!(far.read_to_end(&mut rest).await.unwrap(), 0, "closed");
    to_a.detached().await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Checks two streams, each with a reader and a writer, that are cut at any time.
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
                    // Reading also sends the bytes that this end has to send again.
                    (from.read(&mut [0]).await, to)
                })
            };
            let ends = [run(a), run(b)];
            for (cut_both, steps) in cuts {
                for _ in 0..steps {
                    tokio::task::yield_now().await;
                }
                // The resuming end has lost its connection; the other end may not have noticed.
                to_a.cut();
                if cut_both {
                    to_b.cut();
                }
                resume(&to_a, &to_b, space).await;
            }
            // The streams outlive their bytes; paused time advances once no task is ready.
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
    let (mut a, to_a) = Stream::new(core().within(memory.clone()), Pipe::new(near), MINUTE);
    let (mut b, to_b) = Stream::new(core(), Pipe::new(far), MINUTE);
    assert_eq!((to_a.spare().bytes, memory.used()), (0, 0));
    a.write_all(&pattern(20_000)).await.unwrap();
    assert_eq!((to_a.spare().bytes, memory.used()), (32_768, 32_768));
    // With and without a connection; bytes to be sent again stay.
    for away in [false, true] {
        if away {
            to_a.cut();
            a.write_all(&pattern(20_000)).await.unwrap();
        }
        to_a.shrink();
        assert_eq!(to_a.spare().bytes, 0);
        let attending = a.drive(tokio::task::yield_now()).await;
        assert!(attending.is_some());
        assert_eq!(memory.used(), if away { 32_768 } else { 0 });
        if !away {
            assert_eq!(read(&mut b, 20_000).await, pattern(20_000));
        }
    }
    let attending = tokio::spawn(async move {
        let got = b.drive(std::future::pending::<()>());
        tokio::select! { _ = got => {}, () = sleep(Duration::from_secs(1)) => {} }
        b
    });
    let resuming = resume(&to_a, &to_b, 64 * 1024);
    assert!(a.drive(resuming).await.is_some());
    let mut b = attending.await.unwrap();
    a.flush().await.unwrap();
    assert_eq!(read(&mut b, 20_000).await, pattern(20_000));
    assert!(to_a.spare().bytes > 0, "it can be asked again");
}

/// Connection whose peer acknowledges nothing, and which breaks when its flag is set.
struct Stuck(Arc<AtomicBool>);

impl Connection for Stuck {
    fn unacked(&self) -> usize {
        5
    }

    fn is_broken(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn abandon(&mut self) {}

    fn unread(&self) -> usize {
        0
    }
}

impl AsyncRead for Stuck {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Stuck {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_delivery_finds_out_about_a_break() {
    let broken = Arc::<AtomicBool>::default();
    let core = Core::new(None, None, 4096);
    let (mut stream, handle) = Stream::new(core, Stuck(broken.clone()), MINUTE);
    stream.write_all(b"bytes").await.unwrap();
    let mut shutting = std::pin::pin!(stream.shutdown());
    let early = tokio::time::timeout(MINUTE, &mut shutting).await;
    assert!(early.is_err(), "{early:?}");
    broken.store(true, Ordering::Relaxed);
    let noticed = async {
        tokio::select! {
            shut = &mut shutting => panic!("{shut:?}"),
            detached = handle.detached() => assert!(detached.is_ok()),
        }
    };
    tokio::time::timeout(MINUTE / 2, noticed).await.unwrap();
}

/// The peer of a resume may be back over a third connection before anybody has run.
#[tokio::test]
async fn an_answer_goes_first_and_what_follows_it_counts() {
    let ((mut a, to_a), _) = session(4096, 4096);
    let connection = |near| Pipe::new(near);
    let (near, mut far) = duplex(4096);
    let offer = to_a.offer();
    let offer = a.drive(offer).await.unwrap().unwrap();
    let told = offer.received();
    let answer = b"answer".to_vec();
    offer
        .attach_with_answer(connection(near), 0, answer)
        .unwrap();
    // It has the answer and sends behind it; then it asks anew.
    far.write_all(b"payload").await.unwrap();
    let next = a.drive(to_a.offer()).await.unwrap().unwrap();
    assert_eq!(next.received(), told + 7);
    a.write_all(b"data").await.unwrap();
    let mut got = [0; 10];
    far.read_exact(&mut got).await.unwrap();
    assert_eq!(&got[..6], b"answer");
}
