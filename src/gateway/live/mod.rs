//! A live session: its client's end, the run of its task, its record, and the account of its end.

pub(super) mod account;
mod client;
mod excerpt;
mod record;
mod run;

pub(super) use account::Account;
pub(crate) use client::{Client, Snapshot};
pub(super) use excerpt::excerpt;
pub(crate) use record::{Destination, Details, Record, Registry};
pub(super) use record::{Registration, Resumed};
pub(super) use run::{Stopped, run};
