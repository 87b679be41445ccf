//! Sockets of listeners: opened, taken over and closed with the configuration.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::accept::accept;
use super::error::Error;
use super::generation::Generation;
use super::state::State;
use crate::config::diff::BindKey;
use crate::config::{self, Bind};
use crate::transport::{self, Listener, kcp};

/// Sockets of a gateway, by their binds in the configuration.
#[derive(Default)]
pub(super) struct Sockets {
    open: HashMap<BindKey, Bound>,
    /// KCP sockets that a reload has removed and that still carry their sessions.
    closing: Vec<kcp::Control>,
}

/// Socket that accepts.
struct Bound {
    addr: SocketAddr,
    stop: CancellationToken,
    /// Token that is cancelled once the socket accepts no more.
    stopped: CancellationToken,
    kcp: Option<kcp::Control>,
}

/// Sockets that are open and do not accept yet.
pub(super) struct Opened(Vec<(BindKey, Listener, SocketAddr)>);

impl Sockets {
    /// Opens the sockets for `keys`, all or none. Takes over KCP sockets that are still closing.
    pub async fn open(&self, generation: &Generation, keys: &[BindKey]) -> Result<Opened, Error> {
        let mut opened = Vec::new();
        for key in keys {
            let Some((settings, _)) = generation.listener(key) else {
                continue;
            };
            let socket = self.open_one(key, settings).await;
            opened.push(socket.map_err(|error| Error::Bind {
                bind: key.bind,
                error,
            })?);
        }
        Ok(Opened(opened))
    }

    async fn open_one(
        &self,
        key: &BindKey,
        settings: &config::Listener,
    ) -> io::Result<(BindKey, Listener, SocketAddr)> {
        let there = self
            .closing
            .iter()
            .filter(|_| key.bind.transport == config::Transport::Kcp)
            .find(|control| control.local_addr() == key.bind.addr);
        let settings = transport::Settings::from(settings);
        let reopened = match there {
            Some(control) => control.reopen(&settings.kcp).await,
            None => None,
        };
        let listener = match reopened {
            Some(listener) => Listener::Kcp(listener),
            None => Listener::bind(&key.bind, &settings)?,
        };
        let addr = listener.local_addr()?;
        Ok((key.clone(), listener, addr))
    }

    /// Applies the settings of `new` to the sockets that stay.
    ///
    /// Forgets closing sockets that are closed or that `opened` has taken over.
    pub fn set(&mut self, new: &Generation, opened: &Opened) {
        self.closing.retain(|control| {
            let mut controls = opened
                .0
                .iter()
                .filter_map(|(_, socket, _)| socket.control());
            !control.is_closed() && !controls.any(|it| it.local_addr() == control.local_addr())
        });
        for (key, bound) in &self.open {
            if let (Some(kcp), Some((listener, _))) = (&bound.kcp, new.listener(key)) {
                kcp.set(&kcp::Config::from(&listener.kcp));
            }
        }
    }

    /// Closes the sockets that a reload has removed, and accepts on those that it has `opened`.
    pub async fn change(&mut self, state: &Arc<State>, removed: &[BindKey], opened: Opened) {
        for key in removed {
            if let Some(bound) = self.open.remove(key) {
                bound.stop.cancel();
                bound.stopped.cancelled().await;
                self.closing.extend(bound.kcp);
                tracing::info!(addr = %bound.addr, "stopped listening");
            }
        }
        let generation = state.generation.load_full();
        for (key, listener, addr) in opened.0 {
            let stop = state.shutdown.child_token();
            let bound = Bound {
                addr,
                stop: stop.clone(),
                stopped: CancellationToken::new(),
                kcp: listener.control(),
            };
            let name = generation
                .listener(&key)
                .map(|(listener, _)| listener.name.as_str());
            tracing::info!(listener = name, transport = %key.bind.transport, %addr, "listening");
            let stopped = bound.stopped.clone();
            self.open.insert(key.clone(), bound);
            let accepting = accept(state.clone(), listener, key, stop, stopped);
            state.listeners.spawn(accepting);
        }
    }

    /// Closes the sockets of listeners whose sessions do not resume.
    pub fn drain(&mut self, generation: &Generation) {
        self.open.retain(|key, bound| {
            let listener = generation
                .listener(key)
                .map(|(listener, _)| listener.session);
            let stays = listener.is_some_and(|session| session != config::Session::Plain);
            if !stays {
                bound.stop.cancel();
            }
            stays
        });
    }

    /// Returns the address at which a bind is open, if it is.
    pub fn addr(&self, key: &BindKey) -> Option<SocketAddr> {
        self.open.get(key).map(|bound| bound.addr)
    }

    /// Returns the open binds with their addresses.
    pub fn addrs(&self) -> Vec<(Bind, SocketAddr)> {
        let open = self.open.iter();
        open.map(|(key, bound)| (key.bind, bound.addr)).collect()
    }

    /// Returns the controls of the KCP binds, in the order of the binds.
    pub fn kcp(&self) -> Vec<(BindKey, kcp::Control)> {
        let open = self.open.iter();
        let mut kcp: Vec<_> = open
            .filter_map(|(key, bound)| Some((key.clone(), bound.kcp.clone()?)))
            .collect();
        kcp.sort_by(|(a, _), (b, _)| a.cmp(b));
        kcp
    }
}
