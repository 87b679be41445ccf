//! What strangers do to a gateway, beside live traffic: nobody else feels it.

mod datagrams;
mod queues;
mod rig;
mod scripts;
