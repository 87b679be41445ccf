//! Protocol of an endpoint, a client or a server.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use super::{Command, Error, Frame, Version};

/// Endpoint's side of a physical connection to a gateway, without I/O.
///
/// `D` is the caller's handle of a dial.
///
/// Received frames go to [`receive`](Self::receive), which returns their meaning. All other
/// functions return the frame to be sent. Many dials may run at once: the gateway answers them in
/// order.
#[derive(Debug)]
pub struct Endpoint<D> {
    version: Version,
    /// Dials of v1 that wait for their connection id.
    unopened: VecDeque<(u32, D)>,
    /// Dials of v1 that wait for the answer, by connection id.
    opened: HashMap<u32, D>,
    /// Dials of v2 and v3 that wait for the answer.
    dialled: VecDeque<D>,
}

/// Meaning of a received frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<D> {
    /// A dial of `remote` has become a connection.
    Connected { dial: D, conn: u32, remote: u32 },
    /// The gateway has refused a dial.
    Refused { dial: D },
    /// `remote` has dialled this endpoint.
    Incoming { conn: u32, remote: u32 },
    /// A message has arrived on a connection.
    Data { conn: u32, payload: Bytes },
    /// A connection is closed, at this end too.
    Closed { conn: u32 },
    /// The frame is to be sent in answer, and there is nothing else to do.
    Send(Bytes),
    /// There is nothing to do.
    Nothing,
}

impl<D> Endpoint<D> {
    pub fn new(version: Version) -> Self {
        Self {
            version,
            unopened: VecDeque::new(),
            opened: HashMap::new(),
            dialled: VecDeque::new(),
        }
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// Dials `remote`; returns the frame to be sent.
    pub fn dial(&mut self, remote: u32, dial: D) -> Bytes {
        if self.version == Version::V1 {
            self.unopened.push_back((remote, dial));
            return self.frame(Command::New);
        }
        self.dialled.push_back(dial);
        self.frame(Command::Dial { conn: 0, remote })
    }

    /// Closes a connection; the gateway confirms with an [`Event::Closed`].
    pub fn close(&self, conn: u32) -> Bytes {
        self.frame(Command::Close { conn })
    }

    /// Pings the gateway, which answers; v3 only, as in the others the gateway pings.
    pub fn ping(&self) -> Option<Bytes> {
        (self.version == Version::V3).then(|| self.frame(Command::Ping))
    }

    /// Handles a received frame.
    pub fn receive(&mut self, frame: Frame) -> Result<Event<D>, Error> {
        let conn = frame.conn();
        if conn != 0 {
            let payload = frame.into_body();
            return Ok(Event::Data { conn, payload });
        }
        match Command::parse(self.version, frame.body())? {
            Command::Open { conn } => {
                let unexpected = Error::Unexpected("Open");
                let (remote, dial) = self.unopened.pop_front().ok_or(unexpected)?;
                self.opened.insert(conn, dial);
                Ok(Event::Send(self.frame(Command::Dial { conn, remote })))
            }
            Command::Refuse { conn, .. } => {
                let dial = self.answered(conn);
                let dial = dial.ok_or(Error::Unexpected("Refuse"))?;
                Ok(Event::Refused { dial })
            }
            Command::Accept { conn, remote } => match self.answered(conn) {
                Some(dial) => Ok(Event::Connected { dial, conn, remote }),
                None if self.version == Version::V1 => Ok(Event::Incoming { conn, remote }),
                None => Err(Error::Unexpected("Accept")),
            },
            Command::Connect { conn, remote } => Ok(Event::Incoming { conn, remote }),
            Command::Close { conn } => match self.opened.remove(&conn) {
                Some(dial) => Ok(Event::Refused { dial }),
                None => Ok(Event::Closed { conn }),
            },
            Command::Ping if self.version == Version::V3 => Ok(Event::Nothing),
            Command::Ping => Ok(Event::Send(self.frame(Command::Ping))),
            command @ (Command::New | Command::Dial { .. }) => {
                Err(Error::Unexpected(command.name()))
            }
        }
    }

    /// Takes the dial that an answer belongs to.
    fn answered(&mut self, conn: u32) -> Option<D> {
        match self.version {
            Version::V1 => self.opened.remove(&conn),
            Version::V2 | Version::V3 => self.dialled.pop_front(),
        }
    }

    fn frame(&self, command: Command) -> Bytes {
        // invariant: `New` is said in v1 only.
        command.encode(self.version).expect("a word of its version")
    }
}
