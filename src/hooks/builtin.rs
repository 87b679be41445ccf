//! Built-in rule, the last of every chain.

use std::future::{Future, ready};
use std::pin::Pin;
use std::time::Duration;

use super::{Answer, Call, Hook, Question, Reply, SessionInfo, Target};
use crate::proto::proxy_header::{self, Version};
use crate::proto::scp::FLAG_NO_ANNOUNCEMENT;
use crate::proto::sproto;

/// Announcement of a session: what a server is told before the session's own bytes.
#[derive(Debug, Clone, Default)]
pub struct Announcement {
    /// The type number of goscon's sproto announcement; not sent for clients that set flag 1.
    pub sproto: Option<u16>,
    /// The version of the PROXY protocol header.
    pub proxy_header: Option<Version>,
}

/// Built-in rule: lets everyone in, sends a session where its client asked to go, and announces the
/// session as the configuration says.
pub struct Builtin {
    announcement: Announcement,
}

impl Builtin {
    pub fn new(announcement: Announcement) -> Self {
        Self { announcement }
    }

    fn message(&self, info: &SessionInfo) -> Vec<u8> {
        let mut bytes = Vec::new();
        let is_secret = info.flags & FLAG_NO_ANNOUNCEMENT != 0;
        let (client, gateway) = (info.client_addr, info.gateway_addr);
        // Always sent: without the header, a client could begin with one of its own.
        match self.announcement.proxy_header {
            Some(Version::V1) if is_secret => bytes.extend(proxy_header::UNKNOWN_V1),
            Some(Version::V2) if is_secret => bytes.extend(proxy_header::UNKNOWN_V2),
            Some(Version::V1) => bytes.extend(proxy_header::encode_v1(client, gateway)),
            Some(Version::V2) => bytes.extend(proxy_header::encode_v2(client, gateway)),
            None => {}
        }
        if let Some(number) = self.announcement.sproto
            && !is_secret
        {
            bytes.extend(sproto::announcement(
                number.into(),
                &client.to_string(),
                &gateway.to_string(),
            ));
        }
        bytes
    }
}

impl Hook for Builtin {
    fn name(&self) -> &str {
        "builtin"
    }

    fn call(&self, call: Call) -> Pin<Box<dyn Future<Output = Reply> + Send>> {
        let answer = match &call.question {
            Question::Access => Answer::Allow,
            Question::SelectTarget => match &call.info.target {
                Some(name) => Answer::Target(Target::Name(name.clone())),
                None => Answer::Pass,
            },
            Question::Announce { .. } => Answer::Message(self.message(&call.info).into()),
            Question::Closed(_) => Answer::Pass,
        };
        Box::pin(ready(Reply {
            answer: Ok(answer),
            attrs: call.attrs,
            cost: Duration::ZERO,
        }))
    }
}
