//! Translation of the configuration to the settings of the layers below, which do not know it.

use super::{Announce, Host, Listener, Session, Tcp, Upstream};
use crate::hooks::builtin::Announcement;
use crate::hosts::{Check, Server, Settings};
use crate::transport::{self, tcp};

impl From<&Host> for Server {
    fn from(host: &Host) -> Self {
        Self {
            name: host.name.clone(),
            addr: host.addr.clone(),
            weight: host.weight,
            drain: host.drain,
        }
    }
}

impl From<&Upstream> for Settings {
    fn from(upstream: &Upstream) -> Self {
        let health = &upstream.health;
        Self {
            choose: upstream.choose,
            slow_start: upstream.slow_start,
            resolve_interval: upstream.resolve_interval,
            resolve_timeout: upstream.connect_timeout,
            check: health.interval.map(|interval| Check {
                interval,
                timeout: health.timeout,
                rise: health.rise,
                fall: health.fall,
            }),
        }
    }
}

impl From<&Announce> for Announcement {
    fn from(announce: &Announce) -> Self {
        Self {
            sproto: announce.sproto,
            proxy_header: announce.proxy_header,
        }
    }
}

impl From<&Tcp> for tcp::Settings {
    fn from(tcp: &Tcp) -> Self {
        Self {
            read_timeout: tcp.read_timeout,
            keepalive: tcp.keepalive,
            nodelay: tcp.nodelay,
        }
    }
}

impl From<&Listener> for transport::Settings {
    fn from(listener: &Listener) -> Self {
        Self {
            tcp: (&listener.tcp).into(),
            kcp: (&listener.kcp).into(),
            is_resumable: listener.session != Session::Plain,
        }
    }
}
