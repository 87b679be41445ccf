//! Settings for the choice of a host among several, and for when a host counts as down.

use std::time::Duration;

use super::settings::{Int, OffOr, Spelling, Timeout, YEAR, settings, spelled_as_is};
use crate::hosts::Choose;

settings! {
    /// Active checks of hosts: whether they accept a TCP connection.
    #[derive(PartialEq, Eq)]
    pub struct Health / HealthPatch {
        /// From one check of a host to the next; `0s` (`None`) is no checks. 10ms to 365
        /// days. Default 0s.
        interval: Option<Duration> as OffOr<10, YEAR> = None,
        /// How long a host may take to accept; more than 0s. Default 2s.
        timeout: Duration as Timeout = Duration::from_secs(2),
        /// So many good checks in a row bring a host back; 1 to 1000. Default 2.
        rise: u32 as Int<u32, 1, 1000> = 2,
        /// So many failed ones take it out; 1 to 1000. Default 3.
        fall: u32 as Int<u32, 1, 1000> = 3,
    }

    /// Hosts that sessions could not be connected to are left out for a while.
    #[derive(PartialEq, Eq)]
    pub struct Eject / EjectPatch {
        /// So many failures in a row; up to 1000. 0 is never. Default 0.
        failures: u32 as Int<u32, 0, 1000> = 0,
        /// How long they are left out; more than 0s. Default 30s.
        r#for: Duration as Timeout = Duration::from_secs(30),
    }
}

spelled_as_is!(Health, Eject, Choose);
