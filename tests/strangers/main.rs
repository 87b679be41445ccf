//! What strangers do to a gateway, beside live traffic: nobody else feels it.

#[path = "../common/mod.rs"]
mod common;
mod datagrams;
mod queues;
mod rig;
mod scripts;
