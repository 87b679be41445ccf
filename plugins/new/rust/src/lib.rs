//! A hook of the gateway. It exports any of the interfaces in `wit`, where each is described.

use exports::stablegate::plugin::access_control::{Decision, Guest, Session};
use stablegate::plugin::log::{self, Level};

wit_bindgen::generate!({
    path: "wit",
    inline: "
        package stablegate:hook;

        world hook {
            import stablegate:plugin/log@0.1.0;
            export stablegate:plugin/access-control@0.1.0;
        }
    ",
    generate_all,
});

struct Hook;
export!(Hook);

impl Guest for Hook {
    /// May this client come in?
    fn access(session: Session) -> Result<Decision, String> {
        let line = format!("session {} from {}", session.id, session.client_addr);
        log::write(Level::Info, &line);
        Ok(Decision::Allow)
    }
}
