//! Protocol of the gateway, for all endpoints.

mod ids;
mod words;

use std::collections::BTreeMap;

use ids::{IdMap, IdSet, next_id};
pub use words::{Cause, Dial, Event, Identity, Refusal, Role};

use super::{Command, Error, Frame, Version};

/// Limit of connection ids that a v1 endpoint has asked for and not dialled with.
const MAX_OPENED: usize = 1024;

/// State machine of all endpoints of a gateway and their virtual connections, without I/O.
///
/// `P` is the caller's handle of an endpoint, `C` its context of a virtual connection.
///
/// An endpoint [joins](Self::join). Then its frames go to [`receive`](Self::receive) and its
/// silences to [`idle`](Self::idle), until it [leaves](Self::leave); after an error of either the
/// caller makes it leave. Dials are returned for the caller to decide, with
/// [`connect`](Self::connect) or [`refuse`](Self::refuse). Those of one endpoint are decided in
/// order, as the order may be all that tells an endpoint which dial an answer belongs to. Results
/// are emitted as [`Event`]s, which must reach the endpoints in order.
///
/// ```text
///            v1: New             Dial            connect
///  (nothing) ───────► opened ─────────► dialled ─────────► linked ──► (nothing)
///      └──────────── v2, v3: Dial ─────────┘  └─► refused       Close, a lost end
/// ```
#[derive(Debug)]
pub struct Hub<P, C> {
    members: IdMap<Peer, Member<P>>,
    clients: BTreeMap<u32, Peer>,
    servers: BTreeMap<u32, Peer>,
    connections: IdMap<u32, Connection<C>>,
    last_peer: u64,
    last_client: u32,
    last_connection: u32,
}

/// Key of an endpoint that has joined, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer(u64);

#[derive(Debug)]
struct Member<P> {
    handle: P,
    role: Role,
    id: u32,
    version: Version,
    known: Known,
    /// Flag that the endpoint was pinged and has been silent since.
    pinged: bool,
    /// Number of pings without an answer, whatever else the endpoint has sent since.
    unanswered: u32,
    max_connections: usize,
    connections: IdSet,
    opened: IdSet,
}

/// Certainty about the version of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// The version is known.
    Certain,
    /// The version is not v1.
    NotFirst,
    Nothing,
}

#[derive(Debug)]
enum Connection<C> {
    /// Opened by a v1 endpoint that has not dialled yet, or waits for an answer.
    Opened {
        by: Peer,
        dialled: bool,
    },
    Linked(Link<C>),
}

#[derive(Debug)]
struct Link<C> {
    dialler: Peer,
    dialled: Peer,
    /// Number of payload bytes from the dialling end.
    received: u64,
    /// Number of payload bytes to the dialling end.
    sent: u64,
    context: C,
}

#[cfg(test)]
impl Peer {
    /// Returns the key of the endpoint that joined as number `n`, from 1.
    pub(super) fn nth(n: u64) -> Self {
        Self(n)
    }
}

impl<P, C> Default for Hub<P, C> {
    fn default() -> Self {
        Self {
            members: IdMap::default(),
            clients: BTreeMap::new(),
            servers: BTreeMap::new(),
            connections: IdMap::default(),
            last_peer: 0,
            last_client: 0,
            last_connection: 0,
        }
    }
}

impl<P, C> Hub<P, C> {
    /// Adds an endpoint; returns its key and id.
    ///
    /// A server whose id is taken replaces the older server, which leaves.
    pub fn join(
        &mut self,
        identity: Identity,
        handle: P,
        emit: &mut impl FnMut(Event<'_, P, C>),
    ) -> (Peer, u32) {
        self.last_peer += 1;
        let peer = Peer(self.last_peer);
        let (role, id, version, known, max_connections) = match identity {
            Identity::Client {
                version,
                max_connections,
            } => {
                let id = next_id(&mut self.last_client, |id| self.clients.contains_key(&id));
                let known = match version {
                    Some(_) => Known::Certain,
                    None => Known::Nothing,
                };
                let version = version.unwrap_or(Version::V3);
                (Role::Client, id, version, known, max_connections)
            }
            Identity::Server { version, id } => (Role::Server, id, version, Known::Certain, 0),
        };
        let older = match role {
            Role::Client => self.clients.insert(id, peer),
            Role::Server => self.servers.insert(id, peer),
        };
        if let Some(handle) = older.and_then(|older| self.leave(older, emit)) {
            emit(Event::Replaced { peer: &handle });
        }
        let member = Member {
            handle,
            role,
            id,
            version,
            known,
            pinged: false,
            unanswered: 0,
            max_connections,
            connections: IdSet::default(),
            opened: IdSet::default(),
        };
        self.members.insert(peer, member);
        (peer, id)
    }

    /// Handles a frame of an endpoint.
    ///
    /// Frames of an endpoint that has left, for example because it was replaced, do nothing.
    pub fn receive(
        &mut self,
        peer: Peer,
        frame: Frame,
        emit: &mut impl FnMut(Event<'_, P, C>),
    ) -> Result<Option<Dial>, Error> {
        let Some(member) = self.members.get_mut(&peer) else {
            return Ok(None);
        };
        member.pinged = false;
        match frame.conn() {
            0 => self.command(peer, frame.body(), emit),
            conn => self.data(peer, conn, frame, emit).map(|()| None),
        }
    }

    /// Handles the silence of an endpoint for the idle interval.
    ///
    /// v1 and v2 endpoints are pinged first; the error is for those silent again, and for v3.
    pub fn idle(
        &mut self,
        peer: Peer,
        emit: &mut impl FnMut(Event<'_, P, C>),
    ) -> Result<(), Error> {
        let Some(member) = self.members.get_mut(&peer) else {
            return Ok(());
        };
        if member.known != Known::Certain {
            // A v3 client should have pinged and would be lost now. A client that never pings may
            // not expect pings either, but looks like v2.
            member.version = Version::V2;
        }
        if member.version == Version::V3 || std::mem::replace(&mut member.pinged, true) {
            return Err(Error::Silent);
        }
        member.unanswered += 1;
        member.send(Command::Ping, emit);
        Ok(())
    }

    /// Connects the two ends of a dial; returns the id of the connection.
    ///
    /// `to` is the id that the dialled id was found to mean. If the connection cannot be made, the
    /// dial is refused and `context` comes back.
    pub fn connect(
        &mut self,
        peer: Peer,
        dial: Dial,
        to: u32,
        context: C,
        emit: &mut impl FnMut(Event<'_, P, C>),
    ) -> Result<u32, (Refusal, C)> {
        let Some(dialler) = self.members.get(&peer).filter(|_| self.stands(&dial)) else {
            return Err((Refusal::Withdrawn, context));
        };
        let found = self.ids(dialler.role.other()).get(&to);
        let limit = dialler.max_connections;
        let dialled = match found {
            _ if limit > 0 && dialler.connections.len() >= limit => Err(Refusal::TooMany),
            Some(&dialled) => Ok(dialled),
            None => Err(Refusal::Unknown),
        };
        let dialled = match dialled {
            Ok(dialled) => dialled,
            Err(refusal) => {
                self.refuse(peer, dial, emit);
                return Err((refusal, context));
            }
        };
        let from = dialler.id;
        let conn = match dial.conn {
            Some(conn) => conn,
            None => next_id(&mut self.last_connection, |id| {
                self.connections.contains_key(&id)
            }),
        };
        let link = Link {
            dialler: peer,
            dialled,
            received: 0,
            sent: 0,
            context,
        };
        self.connections.insert(conn, Connection::Linked(link));
        // An endpoint finds its dial by the id that it dialled, not by the id that was found for
        // it.
        let remote = dial.to;
        let accept = Command::Accept { conn, remote };
        let connect = Command::Connect { conn, remote: from };
        for (end, command) in [(peer, accept), (dialled, connect)] {
            if let Some(member) = self.members.get_mut(&end) {
                member.connections.insert(conn);
                member.send(command, emit);
            }
        }
        if let Some(member) = self.members.get_mut(&peer) {
            member.opened.remove(&conn);
        }
        Ok(conn)
    }

    /// Refuses a dial.
    pub fn refuse(&mut self, peer: Peer, dial: Dial, emit: &mut impl FnMut(Event<'_, P, C>)) {
        if !self.stands(&dial) {
            return;
        }
        let Some(member) = self.members.get_mut(&peer) else {
            return;
        };
        if let Some(conn) = dial.conn {
            self.connections.remove(&conn);
            member.opened.remove(&conn);
        }
        let refuse = Command::Refuse {
            conn: dial.conn.unwrap_or(0),
            remote: dial.to,
        };
        member.send(refuse, emit);
    }

    /// Removes an endpoint and all its virtual connections; returns its handle.
    ///
    /// Returns `None` if the endpoint had already left.
    pub fn leave(&mut self, peer: Peer, emit: &mut impl FnMut(Event<'_, P, C>)) -> Option<P> {
        let member = self.members.remove(&peer)?;
        let ids = match member.role {
            Role::Client => &mut self.clients,
            Role::Server => &mut self.servers,
        };
        // A successor may already have the id.
        if ids.get(&member.id) == Some(&peer) {
            ids.remove(&member.id);
        }
        for conn in member.connections {
            if let Some(Connection::Linked(link)) = self.connections.remove(&conn) {
                let (other, cause) = match link.dialler == peer {
                    true => (link.dialled, Cause::Lost),
                    false => (link.dialler, Cause::RemoteLost),
                };
                self.unlink(other, conn, emit);
                emit(link.ended(cause));
            }
        }
        for conn in member.opened {
            self.connections.remove(&conn);
        }
        Some(member.handle)
    }

    /// Returns the endpoint that a frame goes to.
    ///
    /// Returns `None` for a command, and for data of no connection.
    pub fn destination(&self, peer: Peer, frame: &Frame) -> Option<&P> {
        let Some(Connection::Linked(link)) = self.connections.get(&frame.conn()) else {
            return None;
        };
        let other = match link.dialler == peer {
            true => link.dialled,
            false => link.dialler,
        };
        self.members.get(&other).map(|member| &member.handle)
    }

    /// Returns the number of virtual connections of an endpoint.
    pub fn connections_of(&self, peer: Peer) -> usize {
        let member = self.members.get(&peer);
        member.map_or(0, |member| member.connections.len())
    }

    /// Returns the endpoints of a kind from an id on, in order: id, handle, number of connections.
    pub fn endpoints(&self, role: Role, from: u32) -> impl Iterator<Item = (u32, &P, usize)> {
        let ids = self.ids(role);
        ids.range(from..).filter_map(|(&id, peer)| {
            let member = self.members.get(peer)?;
            Some((id, &member.handle, member.connections.len()))
        })
    }

    /// Returns the number of endpoints of a kind.
    pub fn count(&self, role: Role) -> usize {
        self.ids(role).len()
    }

    /// Returns the number of virtual connections.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    fn ids(&self, role: Role) -> &BTreeMap<u32, Peer> {
        match role {
            Role::Client => &self.clients,
            Role::Server => &self.servers,
        }
    }

    fn data(
        &mut self,
        peer: Peer,
        conn: u32,
        frame: Frame,
        emit: &mut impl FnMut(Event<'_, P, C>),
    ) -> Result<(), Error> {
        let other = match self.connections.get_mut(&conn) {
            Some(Connection::Linked(link)) if link.dialler == peer => {
                link.received += frame.body().len() as u64;
                link.dialled
            }
            Some(Connection::Linked(link)) if link.dialled == peer => {
                link.sent += frame.body().len() as u64;
                link.dialler
            }
            Some(_) => return Err(Error::NotItsOwn(conn)),
            None => {
                // The frame may have been sent before the close of the other end arrived.
                if let Some(member) = self.members.get(&peer) {
                    member.send(Command::Close { conn }, emit);
                }
                return Ok(());
            }
        };
        if let Some(other) = self.members.get(&other) {
            emit(Event::Frame {
                to: &other.handle,
                frame: frame.into_bytes(),
            });
        }
        Ok(())
    }

    fn command(
        &mut self,
        peer: Peer,
        body: &[u8],
        emit: &mut impl FnMut(Event<'_, P, C>),
    ) -> Result<Option<Dial>, Error> {
        let Some(member) = self.members.get_mut(&peer) else {
            return Ok(None);
        };
        member.learn(body)?;
        match Command::parse(member.version, body)? {
            Command::New => {
                if member.opened.len() >= MAX_OPENED {
                    return Err(Error::TooManyOpened);
                }
                let conn = next_id(&mut self.last_connection, |id| {
                    self.connections.contains_key(&id)
                });
                member.opened.insert(conn);
                let opened = Connection::Opened {
                    by: peer,
                    dialled: false,
                };
                self.connections.insert(conn, opened);
                member.send(Command::Open { conn }, emit);
                Ok(None)
            }
            Command::Dial { conn, remote } => {
                let dial = Dial {
                    from: member.id,
                    to: remote,
                    conn: (member.version == Version::V1).then_some(conn),
                };
                if dial.conn.is_some() {
                    match self.connections.get_mut(&conn) {
                        Some(Connection::Opened { by, dialled }) if *by == peer && !*dialled => {
                            *dialled = true;
                        }
                        _ => return Err(Error::NotItsOwn(conn)),
                    }
                }
                Ok(Some(dial))
            }
            Command::Close { conn } => self.close(peer, conn, emit).map(|()| None),
            Command::Ping => {
                match member.unanswered.checked_sub(1) {
                    Some(rest) => member.unanswered = rest,
                    None => {
                        if member.known != Known::Certain {
                            // Only v3 pings unasked.
                            (member.version, member.known) = (Version::V3, Known::Certain);
                        }
                        if member.version == Version::V3 {
                            member.send(Command::Ping, emit);
                        }
                    }
                }
                Ok(None)
            }
            command @ (Command::Open { .. }
            | Command::Refuse { .. }
            | Command::Accept { .. }
            | Command::Connect { .. }) => Err(Error::Unexpected(command.name())),
        }
    }

    /// Closes a connection at the request of one end, and tells both.
    fn close(
        &mut self,
        peer: Peer,
        conn: u32,
        emit: &mut impl FnMut(Event<'_, P, C>),
    ) -> Result<(), Error> {
        match self.connections.get(&conn) {
            // Endpoints confirm a close, and two may close at once.
            None => return Ok(()),
            Some(Connection::Opened { by, .. }) if *by == peer => {
                self.connections.remove(&conn);
                if let Some(member) = self.members.get_mut(&peer) {
                    member.opened.remove(&conn);
                    member.send(Command::Close { conn }, emit);
                }
                return Ok(());
            }
            Some(Connection::Linked(link)) if [link.dialler, link.dialled].contains(&peer) => {}
            Some(_) => return Err(Error::NotItsOwn(conn)),
        }
        if let Some(Connection::Linked(link)) = self.connections.remove(&conn) {
            let (other, cause) = match link.dialler == peer {
                true => (link.dialled, Cause::Closed),
                false => (link.dialler, Cause::RemoteClosed),
            };
            self.unlink(peer, conn, emit);
            self.unlink(other, conn, emit);
            emit(link.ended(cause));
        }
        Ok(())
    }

    /// Tells an end of a connection that the connection is closed.
    fn unlink(&mut self, end: Peer, conn: u32, emit: &mut impl FnMut(Event<'_, P, C>)) {
        if let Some(member) = self.members.get_mut(&end) {
            member.connections.remove(&conn);
            member.send(Command::Close { conn }, emit);
        }
    }

    /// Returns whether a dial is still wanted, as a v1 endpoint can close what it dials.
    fn stands(&self, dial: &Dial) -> bool {
        dial.conn.is_none_or(|conn| {
            matches!(
                self.connections.get(&conn),
                Some(Connection::Opened { dialled: true, .. })
            )
        })
    }
}

impl<P> Member<P> {
    fn send<C>(&self, command: Command, emit: &mut impl FnMut(Event<'_, P, C>)) {
        // invariant: `Open` goes to who said `New`, which is v1.
        let frame = command.encode(self.version).expect("a word of its version");
        emit(Event::Frame {
            to: &self.handle,
            frame,
        });
    }

    /// Tells v1 from v2 and v3 by the first command; pings tell v2 from v3 later.
    fn learn(&mut self, body: &[u8]) -> Result<(), Error> {
        if self.known == Known::Nothing {
            match Version::of_first(body)? {
                Version::V1 => (self.version, self.known) = (Version::V1, Known::Certain),
                _ => self.known = Known::NotFirst,
            }
        }
        Ok(())
    }
}

impl<C> Link<C> {
    fn ended<'a, P>(self, cause: Cause) -> Event<'a, P, C> {
        Event::Ended {
            connection: self.context,
            received: self.received,
            sent: self.sent,
            cause,
        }
    }
}
