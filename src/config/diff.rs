//! Difference of two configurations: what a reload does to the open sockets.

use std::collections::HashSet;

use super::{Bind, Listener};

/// Key of a socket, by which a reload finds it again.
///
/// A bind with a fixed port stays the same socket when it moves to another listener. With port 0
/// only the listener and the position tell one bind from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BindKey {
    /// Bind, as it is configured.
    pub bind: Bind,
    /// For port 0: the listener's name, and the number, from 0, of this bind among its equal ones.
    pub chosen_port: Option<(String, usize)>,
}

impl BindKey {
    /// Returns the keys of a listener's binds, in their order. No two listeners of a configuration
    /// share a key.
    pub fn of(listener: &Listener) -> Vec<Self> {
        let key = |(i, bind): (usize, &Bind)| Self {
            bind: *bind,
            chosen_port: (bind.addr.port() == 0).then(|| {
                let equal = listener.bind[..i].iter().filter(|b| *b == bind).count();
                (listener.name.clone(), equal)
            }),
        };
        listener.bind.iter().enumerate().map(key).collect()
    }
}

/// Difference between the binds of two configurations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diff {
    /// Binds to be opened, in the order of the new configuration.
    pub added: Vec<BindKey>,
    /// Binds to stop accepting, in the order of the old configuration.
    pub removed: Vec<BindKey>,
    /// Binds to be left alone, in the order of the new configuration.
    pub kept: Vec<BindKey>,
}

/// Compares the listeners of the running configuration with those of the next one.
pub fn diff(old: &[Listener], new: &[Listener]) -> Diff {
    let old: Vec<_> = old.iter().flat_map(BindKey::of).collect();
    let new: Vec<_> = new.iter().flat_map(BindKey::of).collect();
    let was: HashSet<_> = old.iter().cloned().collect();
    let is: HashSet<_> = new.iter().cloned().collect();
    let (kept, added) = new.into_iter().partition(|key| was.contains(key));
    let removed = old.into_iter().filter(|key| !is.contains(key)).collect();
    Diff {
        added,
        removed,
        kept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Fastway, Kcp, Limits, ProxyHeader, Scp, Service, Session, Snet, Tcp};

    fn listener(name: &str, binds: &[&str]) -> Listener {
        Listener {
            name: name.to_owned(),
            bind: binds.iter().map(|bind| bind.parse().unwrap()).collect(),
            session: Session::Scp,
            service: Service::Proxy,
            hooks: Vec::new(),
            peek: None,
            limits: Limits::default(),
            proxy_header: ProxyHeader::default(),
            scp: Scp::default(),
            snet: Snet::default(),
            tcp: Tcp::default(),
            kcp: Kcp::default(),
            fastway: Fastway::default(),
        }
    }

    fn key(bind: &str, chosen_port: Option<(&str, usize)>) -> BindKey {
        BindKey {
            bind: bind.parse().unwrap(),
            chosen_port: chosen_port.map(|(name, nth)| (name.to_owned(), nth)),
        }
    }

    #[test]
    fn binds_are_added_removed_and_kept() {
        let old = [listener("a", &["tcp://1.1.1.1:1", "tcp://1.1.1.1:2"])];
        let new = [listener("a", &["tcp://1.1.1.1:3", "tcp://1.1.1.1:2"])];
        let expected = Diff {
            added: vec![key("tcp://1.1.1.1:3", None)],
            removed: vec![key("tcp://1.1.1.1:1", None)],
            kept: vec![key("tcp://1.1.1.1:2", None)],
        };
        assert_eq!(diff(&old, &new), expected);
        assert_eq!(diff(&[], &old).added, BindKey::of(&old[0]));
        assert_eq!(diff(&old, &[]).removed, BindKey::of(&old[0]));
    }

    #[test]
    fn a_fixed_port_stays_open_when_its_listener_changes() {
        let old = [listener("a", &["tcp://1.1.1.1:1"])];
        let new = [listener("b", &["tcp://1.1.1.1:1"])];
        let expected = Diff {
            kept: vec![key("tcp://1.1.1.1:1", None)],
            ..Diff::default()
        };
        assert_eq!(diff(&old, &new), expected);
    }

    #[test]
    fn a_chosen_port_belongs_to_its_listener() {
        let any = "tcp://1.1.1.1:0";
        let old = [listener("a", &[any, any]), listener("b", &[any])];
        let new = [listener("a", &[any]), listener("c", &[any])];
        let expected = Diff {
            added: vec![key(any, Some(("c", 0)))],
            removed: vec![key(any, Some(("a", 1))), key(any, Some(("b", 0)))],
            kept: vec![key(any, Some(("a", 0)))],
        };
        assert_eq!(diff(&old, &new), expected);
    }
}
