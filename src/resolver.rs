//! Resolver of host names.
//!
//! A system lookup cannot be cancelled and holds a thread until it is answered. So separate users
//! have separate resolvers, each with a limit of lookups at once; a caller may stop waiting at any
//! time.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, MutexGuard};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::sync::Mutex;

/// Resolver of host names, with one lookup at a time for each name.
#[derive(Debug)]
pub struct Resolver {
    places: Arc<Semaphore>,
    flights: Arc<Mutex<HashMap<String, Flight>>>,
}

/// Receiver of the answer to a lookup, shared by all callers that asked for the name.
type Flight = watch::Receiver<Option<Result<Vec<IpAddr>, Arc<io::Error>>>>;

/// Default limit of lookups at once.
const PLACES: usize = 32;

impl Default for Resolver {
    fn default() -> Self {
        Self::new(PLACES)
    }
}

impl Resolver {
    /// Creates a resolver that looks up at most `places` names at once.
    pub fn new(places: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places)),
            flights: Arc::default(),
        }
    }

    /// Returns the addresses of a name, or the address itself if `host` is an IP address.
    ///
    /// # Errors
    /// Those of the system lookup, or the lack of a descriptor.
    ///
    /// Cancel safe: a started lookup continues and keeps its place.
    pub async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        match host.parse() {
            Ok(ip) => Ok(vec![ip]),
            Err(_) => self.lookup_by(host, ask).await,
        }
    }

    /// Returns the addresses of a name, as [`lookup`](Self::lookup) does, with a port.
    ///
    /// # Errors
    /// Those of [`lookup`](Self::lookup).
    pub async fn addrs(&self, host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
        let found = self.lookup(&host).await?;
        Ok(found.into_iter().map(|ip| (ip, port).into()).collect())
    }

    async fn lookup_by(
        &self,
        host: &str,
        ask: impl FnOnce(&str) -> io::Result<Vec<IpAddr>> + Send + 'static,
    ) -> io::Result<Vec<IpAddr>> {
        let known = self.flights().get(host).cloned();
        let mut flight = match known {
            Some(flight) => flight,
            None => {
                let place = self.places.clone().acquire_owned().await;
                self.begin(host, place.map_err(io::Error::other)?, ask)
            }
        };
        let answer = flight.wait_for(Option::is_some).await;
        match answer.map_err(io::Error::other)?.as_ref() {
            Some(Ok(found)) => Ok(found.clone()),
            Some(Err(error)) => Err(match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(error.kind(), error.to_string()),
            }),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Starts a lookup, or joins one for the same name that was started meanwhile.
    fn begin(
        &self,
        host: &str,
        place: OwnedSemaphorePermit,
        ask: impl FnOnce(&str) -> io::Result<Vec<IpAddr>> + Send + 'static,
    ) -> Flight {
        let mut flights = self.flights();
        if let Some(flight) = flights.get(host) {
            return flight.clone();
        }
        let (tell, flight) = watch::channel(None);
        flights.insert(host.to_owned(), flight.clone());
        let (host, flights) = (host.to_owned(), self.flights.clone());
        tokio::task::spawn_blocking(move || {
            let answer = ask(&host).map_err(Arc::new);
            flights.lock().remove(&host);
            tell.send_replace(Some(answer));
            drop(place);
        });
        flight
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<String, Flight>> {
        self.flights.lock()
    }
}

/// Looks a name up with the system.
///
/// The system does not report that it failed for lack of a descriptor, so this function checks
/// that.
fn ask(host: &str) -> io::Result<Vec<IpAddr>> {
    match (host, 0).to_socket_addrs() {
        Ok(found) => Ok(found.map(|addr| addr.ip()).collect()),
        Err(error) => {
            let opened = File::open("/dev/null").err();
            let is_ours = |error: &io::Error| {
                matches!(
                    error.raw_os_error(),
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)
                )
            };
            Err(opened.filter(is_ours).unwrap_or(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::task::Poll;
    use std::time::Duration;

    /// Resolver that answers when the test tells it to.
    #[derive(Clone)]
    struct Dns {
        asked: Sender<(String, Sender<u8>)>,
    }

    impl Dns {
        fn new() -> (Self, Receiver<(String, Sender<u8>)>) {
            let (asked, questions) = channel();
            (Self { asked }, questions)
        }

        fn ask(&self) -> impl FnOnce(&str) -> io::Result<Vec<IpAddr>> + Send + use<> {
            let asked = self.asked.clone();
            move |host| {
                let (answer, answered) = channel();
                asked.send((host.to_owned(), answer)).unwrap();
                let ip = answered.recv().map_err(io::Error::other)?;
                Ok(vec![[10, 0, 0, ip].into()])
            }
        }
    }

    async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|cx| match Pin::new(&mut *future).poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    fn next(questions: &Receiver<(String, Sender<u8>)>) -> (String, Sender<u8>) {
        let patience = Duration::from_secs(30);
        questions.recv_timeout(patience).expect("a question")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_lookup_keeps_its_place_until_its_thread_is_back() {
        let (dns, questions) = Dns::new();
        let resolver = Arc::new(Resolver::new(2));
        let asking = |name: &'static str| {
            let (resolver, ask) = (resolver.clone(), dns.ask());
            tokio::spawn(async move { resolver.lookup_by(name, ask).await })
        };
        let given_up = [asking("a"), asking("b")];
        let [(_, a), (_, b)] = [next(&questions), next(&questions)];
        for task in given_up {
            task.abort();
            assert!(task.await.is_err());
        }
        let third = asking("c");
        assert!(resolver.places.try_acquire().is_err());
        assert_eq!(resolver.lookup("192.0.2.1").await.unwrap().len(), 1);
        assert!(questions.try_recv().is_err());
        a.send(1).unwrap();
        let (name, c) = next(&questions);
        assert_eq!(name, "c");
        c.send(3).unwrap();
        let found = third.await.unwrap().unwrap();
        assert_eq!(found, [IpAddr::from([10, 0, 0, 3])]);
        drop(b);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn all_who_ask_for_a_name_get_one_answer() {
        let (dns, questions) = Dns::new();
        let resolver = Arc::new(Resolver::new(9));
        let asking = || resolver.lookup_by("a", dns.ask());
        let mut asked: Vec<_> = (0..9).map(|_| Box::pin(asking())).collect();
        for asking in &mut asked {
            assert!(poll_once(asking).await.is_none());
        }
        let (_, answer) = next(&questions);
        answer.send(7).unwrap();
        for asking in asked {
            assert_eq!(asking.await.unwrap(), [IpAddr::from([10, 0, 0, 7])]);
        }
        assert!(questions.try_recv().is_err());
        assert!(resolver.flights().is_empty());
        let again = resolver.lookup_by("a", |_| Err(io::ErrorKind::NotFound.into()));
        assert_eq!(again.await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
