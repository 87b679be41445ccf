//! From the configuration to the settings of the layers below, which know nothing of it.

use super::{Announce, Host, Upstream};
use crate::hooks::builtin::Announcement;
use crate::hosts::{Check, Server, Settings};

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
