//! Sessions from end to end: the gateway's process between real sockets.

mod delivery;
mod handshake;
mod resume;
mod stopping;

use crate::common::{Gateway, scp_to};

async fn echo_gateway() -> Gateway {
    Gateway::start(&scp_to("builtin:echo", "")).await
}
