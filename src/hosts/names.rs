//! Resolved addresses of hosts.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::MutexGuard;
use std::time::Duration;

use rand::seq::SliceRandom;
use tokio::time::{sleep, timeout};

use crate::sync::Mutex;

/// Name and port of a host, with the addresses found by the last lookup.
#[derive(Debug)]
pub(crate) struct Resolved {
    host: String,
    port: u16,
    /// Addresses of the last answer; empty before the first.
    found: Mutex<Vec<SocketAddr>>,
}

impl Resolved {
    pub fn new(host: &str, port: u16) -> Self {
        let literal = host.parse::<IpAddr>().ok();
        Self {
            host: host.to_owned(),
            port,
            found: Mutex::new(literal.map(|ip| (ip, port).into()).into_iter().collect()),
        }
    }

    /// Returns whether the host is an IP address, which needs no lookup.
    pub fn is_literal(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok()
    }

    /// Returns the addresses in random order.
    ///
    /// With `kept`, uses the addresses of the last lookup if there are any; otherwise looks the
    /// name up within `limit`.
    pub async fn addresses<L, F>(
        &self,
        lookup: L,
        kept: bool,
        limit: Duration,
    ) -> io::Result<Vec<SocketAddr>>
    where
        L: FnOnce(String, u16) -> F,
        F: Future<Output = io::Result<Vec<SocketAddr>>>,
    {
        let mut found = self.found().clone();
        if found.is_empty() || !(kept || self.is_literal()) {
            self.refresh(lookup, limit).await?;
            found = self.found().clone();
        }
        found.shuffle(&mut rand::rng());
        Ok(found)
    }

    /// Looks the name up every `interval`, forever.
    ///
    /// Without an answer the last addresses stay.
    pub async fn keep_fresh<L, F>(&self, lookup: L, interval: Duration, limit: Duration)
    where
        L: Fn(String, u16) -> F,
        F: Future<Output = io::Result<Vec<SocketAddr>>>,
    {
        let mut failed = false;
        loop {
            let result = self.refresh(&lookup, limit).await;
            if let Err(error) = &result
                && !failed
            {
                tracing::warn!(host = self.host, %error, "cannot look up");
            }
            failed = result.is_err();
            sleep(interval).await;
        }
    }

    async fn refresh<L, F>(&self, lookup: L, limit: Duration) -> io::Result<()>
    where
        L: FnOnce(String, u16) -> F,
        F: Future<Output = io::Result<Vec<SocketAddr>>>,
    {
        let answer = timeout(limit, lookup(self.host.clone(), self.port));
        let no_answer = |_| io::Error::new(io::ErrorKind::TimedOut, "no answer from DNS in time");
        let mut answer = answer.await.map_err(no_answer)??;
        if answer.is_empty() {
            let error = "the name has no address";
            return Err(io::Error::new(io::ErrorKind::NotFound, error));
        }
        answer.sort_unstable();
        let mut found = self.found();
        if *found != answer {
            tracing::debug!(host = self.host, addresses = ?answer, "looked up");
            *found = answer;
        }
        Ok(())
    }

    fn found(&self) -> MutexGuard<'_, Vec<SocketAddr>> {
        self.found.lock()
    }
}

/// Returns whether an error is a lack of descriptors, ports or memory, which says nothing about the
/// host.
pub(crate) fn is_ours(error: &io::Error) -> bool {
    const OURS: [i32; 5] = [
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOBUFS,
        libc::ENOMEM,
        libc::EADDRNOTAVAIL,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| OURS.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::future::pending;
    use std::pin::Pin;
    use std::sync::Arc;
    use tokio::time::advance;

    const LIMIT: Duration = Duration::from_secs(5);
    const INTERVAL: Duration = Duration::from_secs(30);

    type Answer = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

    /// Resolver with a settable answer; lookups hang while there is none.
    #[derive(Clone, Default)]
    struct Dns(Arc<Mutex<Vec<SocketAddr>>>, Arc<Mutex<Vec<String>>>);

    impl Dns {
        fn answers(&self, ips: &[u8]) {
            let addr = |ip: &u8| SocketAddr::from(([10, 0, 0, *ip], 80));
            *self.0.lock() = ips.iter().map(addr).collect();
        }

        fn asked(&self) -> usize {
            self.1.lock().len()
        }

        fn lookup(&self) -> impl Fn(String, u16) -> Answer + Send + 'static {
            let Self(answer, asked) = self.clone();
            move |host, port| {
                asked.lock().push(format!("{host}:{port}"));
                let answer = answer.lock().clone();
                if answer.is_empty() {
                    return Box::pin(pending());
                }
                Box::pin(std::future::ready(Ok(answer)))
            }
        }
    }

    async fn found(name: &Resolved, dns: &Dns, kept: bool) -> Vec<u8> {
        let found = name.addresses(dns.lookup(), kept, LIMIT).await.unwrap();
        let mut ips: Vec<_> = found
            .iter()
            .map(|addr| match addr.ip() {
                IpAddr::V4(ip) => ip.octets()[3],
                IpAddr::V6(_) => unreachable!(),
            })
            .collect();
        ips.sort_unstable();
        ips
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_looked_up_again_and_again() {
        let (name, dns) = (Arc::new(Resolved::new("lobby.example", 80)), Dns::default());
        dns.answers(&[1, 2]);
        assert_eq!(found(&name, &dns, true).await, [1, 2]);
        let (keeping, lookup) = (name.clone(), dns.lookup());
        let task = tokio::spawn(async move { keeping.keep_fresh(lookup, INTERVAL, LIMIT).await });
        tokio::task::yield_now().await;
        assert_eq!(dns.asked(), 2);
        dns.answers(&[3]);
        assert_eq!(found(&name, &dns, true).await, [1, 2], "not yet");
        sleep(INTERVAL).await;
        tokio::task::yield_now().await;
        assert_eq!(found(&name, &dns, true).await, [3]);
        // DNS is down for an hour; no session waits for it.
        dns.answers(&[]);
        for _ in 0..120 {
            advance(INTERVAL).await;
            let start = tokio::time::Instant::now();
            assert_eq!(found(&name, &dns, true).await, [3]);
            assert_eq!(start.elapsed(), Duration::ZERO);
        }
        dns.answers(&[4]);
        sleep(INTERVAL + LIMIT).await;
        assert_eq!(found(&name, &dns, true).await, [4]);
        let asked = dns.asked();
        task.abort();
        sleep(10 * INTERVAL).await;
        assert_eq!(dns.asked(), asked);
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_answer_a_session_waits_for_one() {
        let (name, dns) = (Resolved::new("lobby.example", 80), Dns::default());
        let start = tokio::time::Instant::now();
        let error = name.addresses(dns.lookup(), true, LIMIT).await.unwrap_err();
        assert_eq!(
            (error.kind(), start.elapsed()),
            (io::ErrorKind::TimedOut, LIMIT)
        );
        dns.answers(&[1]);
        assert_eq!(found(&name, &dns, true).await, [1]);
        // Without `kept`, each session looks the name up.
        dns.answers(&[2]);
        assert_eq!(found(&name, &dns, false).await, [2]);
        assert_eq!(*dns.1.lock(), ["lobby.example:80"; 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_needs_no_lookup() {
        let (name, dns) = (Resolved::new("10.0.0.9", 80), Dns::default());
        for kept in [true, false] {
            assert_eq!(found(&name, &dns, kept).await, [9]);
        }
        assert_eq!(dns.asked(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_are_spread_over_the_addresses() {
        let (name, dns) = (Resolved::new("lobby.example", 80), Dns::default());
        dns.answers(&[1, 2, 3]);
        let mut first = HashSet::new();
        for _ in 0..200 {
            first.insert(name.addresses(dns.lookup(), true, LIMIT).await.unwrap()[0]);
        }
        assert_eq!((first.len(), dns.asked()), (3, 1));
    }
}
