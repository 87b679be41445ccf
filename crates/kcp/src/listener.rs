//! Accepting sessions.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::acceptor::Acceptor;
use crate::config::Config;
use crate::counters::Counters;
use crate::driver::Driver;
use crate::stream::Stream;
use crate::udp::Socket;

/// Accepts KCP sessions on the sockets of one bind.
///
/// Each socket has a task of its own. They go on when the listener is dropped, until all sessions
/// accepted from it have ended; until then it can be [reopened](Control::reopen).
pub struct Listener {
    control: Control,
}

/// Changes and watches a listener from elsewhere.
#[derive(Clone)]
pub struct Control {
    acceptor: Arc<Acceptor>,
}

impl Listener {
    /// Binds the sockets. Must be called within a runtime.
    ///
    /// # Errors
    /// Those of the system. The port counts as taken as long as sessions of an earlier listener
    /// on it live: the two would share it by chance. That one can be reopened.
    pub fn bind(addr: SocketAddr, config: &Config) -> io::Result<Self> {
        let sockets = Socket::bind(addr, config)?;
        let local = sockets[0].local_addr();
        let drivers: Vec<_> = sockets.into_iter().map(Driver::accepting).collect();
        let handles = drivers.iter().map(|driver| driver.handle().clone());
        let acceptor = Arc::new(Acceptor::new(local, config.clone(), handles.collect()));
        for driver in drivers {
            tokio::spawn(driver.accept_for(acceptor.clone()));
        }
        Ok(Self {
            control: Control { acceptor },
        })
    }

    /// Returns the bound address, with the real port where the given one was 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.control.local_addr()
    }

    /// Returns what changes and watches this listener.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Accepts the next session. Its peer has shown that it receives what is sent to it.
    ///
    /// Cancel safe.
    pub async fn accept(&self) -> Stream {
        Stream::new(self.control.acceptor.accept().await)
    }

    /// Stops accepting, at once, and waits until all sessions have ended and everything written to
    /// them is delivered or given up, or until it is reopened. A session that is kept open keeps
    /// this waiting.
    ///
    /// Cancel safe.
    pub fn close(self) -> impl Future<Output = ()> + use<> {
        let control = self.control.clone();
        drop(self);
        async move { control.acceptor.closed().await }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.control.acceptor.close();
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listener({})", self.local_addr())
    }
}

impl Control {
    /// Sets what new sessions are made with. The sockets stay as they are.
    pub fn set(&self, config: &Config) {
        self.acceptor.set(config);
    }

    /// Returns the address of the listener.
    pub fn local_addr(&self) -> SocketAddr {
        self.acceptor.local_addr()
    }

    /// Tells whether the listener is gone, and its sockets with that or about to be.
    pub fn is_closed(&self) -> bool {
        self.acceptor.is_closed()
    }

    /// Reopens the listener on the sockets of a listener that is dropped or about to be, with new
    /// settings. `None` if no session has kept them open; the port is free then.
    ///
    /// Waits for a listener that is not dropped. Cancel safe.
    pub async fn reopen(&self, config: &Config) -> Option<Listener> {
        let reopened = self.acceptor.reopen(config).await;
        reopened.then(|| Listener {
            control: self.clone(),
        })
    }

    /// Sums up what all sockets have counted. Cancel safe.
    pub async fn counters(&self) -> Counters {
        self.acceptor.counters().await
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Control({})", self.local_addr())
    }
}
