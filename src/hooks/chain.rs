//! Chain of a listener's hooks, asked in order.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::spec::OnError;
use super::stats::HookStats;
use super::trace::{Outcome, Trace};
use super::{Answer, Attrs, Call, Ended, Hook, Question, Reply, SessionInfo, Target};

/// Chain of the hooks that decide about a listener's sessions, the built-in rule last.
#[derive(Clone)]
pub struct Chain {
    links: Vec<ChainEntry>,
}

/// Hook of a chain, with what its errors count as.
#[derive(Clone)]
pub struct ChainEntry {
    pub hook: Arc<dyn Hook>,
    pub on_error: OnError,
    pub stats: Arc<HookStats>,
}

/// Session as the hooks see it, through all questions about it.
#[derive(Debug)]
pub struct HookContext {
    pub info: Arc<SessionInfo>,
    pub attrs: Attrs,
    /// Trace that records the decisions, if they are recorded.
    pub trace: Option<Arc<Trace>>,
}

/// Refusal of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// Name of the hook that refused the session.
    pub hook: String,
    pub reason: String,
}

impl Chain {
    pub fn new(links: Vec<ChainEntry>) -> Self {
        Self { links }
    }

    /// Returns whether the chain is only the built-in rule.
    pub fn is_builtin(&self) -> bool {
        self.links.len() < 2
    }

    /// Asks the hooks whether the session may go on.
    ///
    /// The first hook that denies the session ends the asking.
    pub async fn access(&self, subject: &mut HookContext) -> Result<(), Denied> {
        for link in &self.links {
            link.ask(subject, Question::Access).await?;
        }
        Ok(())
    }

    /// Returns where the session goes, by the first hook that says so. `None` means any host.
    pub async fn select_target(&self, subject: &mut HookContext) -> Result<Option<Target>, Denied> {
        for link in &self.links {
            if let Answer::Target(target) = link.ask(subject, Question::SelectTarget).await? {
                return Ok(Some(target));
            }
        }
        Ok(None)
    }

    /// Returns the bytes that the upstream `target` is sent before the session's own.
    ///
    /// The first hook that gives a message decides. The bytes may be empty.
    pub async fn announce(&self, subject: &mut HookContext, target: &str) -> Result<Bytes, Denied> {
        for link in &self.links {
            let question = Question::Announce {
                target: target.to_owned(),
            };
            if let Answer::Message(bytes) = link.ask(subject, question).await? {
                return Ok(bytes);
            }
        }
        Ok(Bytes::new())
    }

    /// Tells every hook that the session is over.
    pub async fn closed(&self, subject: &mut HookContext, ended: &Ended) {
        for link in &self.links {
            // Nothing is left to deny.
            let _ = link.ask(subject, Question::Closed(ended.clone())).await;
        }
    }
}

impl ChainEntry {
    async fn ask(&self, subject: &mut HookContext, question: Question) -> Result<Answer, Denied> {
        let trace = subject.trace.as_ref();
        let trace = trace.filter(|_| !matches!(question, Question::Closed(_)));
        let decision =
            trace.map(|trace| trace.begin(self.stats.clone(), &question, &subject.attrs));
        let call = Call {
            question: question.clone(),
            info: subject.info.clone(),
            attrs: std::mem::take(&mut subject.attrs),
        };
        let asked = Instant::now();
        let Reply {
            answer,
            attrs,
            cost,
        } = self.hook.call(call).await;
        subject.attrs = attrs;
        // A hook that passes at no cost does not define the function: it was not asked.
        let told = !cost.is_zero() || answer.is_err();
        if told {
            self.stats.answered(&question, asked.elapsed());
        }
        if let Some((trace, mut decision)) = trace.zip(decision)
            && (told || !matches!(answer, Ok(Answer::Pass)))
        {
            decision.cost(cost);
            decision.outcome = match &answer {
                Ok(answer) => Outcome::from(answer),
                Err(error) => Outcome::Failed(error.kind, error.message.as_str().into()),
            };
            trace.add(decision);
        }
        let denied = |reason| {
            self.stats.denied(&question);
            Denied {
                hook: self.hook.name().to_owned(),
                reason,
            }
        };
        match answer {
            Ok(Answer::Deny { reason }) => Err(denied(reason)),
            Ok(answer) => Ok(answer),
            Err(error) => {
                tracing::warn!(
                    hook = self.hook.name(),
                    id = subject.info.id,
                    kind = error.kind.label(),
                    cost_us = cost.as_micros() as u64,
                    %error,
                    "hook failed"
                );
                self.stats.failed(&question, &error);
                match self.on_error {
                    OnError::Skip => Ok(Answer::Pass),
                    OnError::Deny => Err(denied(error.to_string())),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::{AttrValue, HookError, HookErrorKind};
    use std::future::{Future, ready};
    use std::pin::Pin;
    use std::time::Duration;

    /// Hook that gives one answer to everything, and notes in the attributes that it was asked.
    struct Fixed(&'static str, Result<Answer, ()>);

    impl Hook for Fixed {
        fn name(&self) -> &str {
            self.0
        }

        fn call(&self, mut call: Call) -> Pin<Box<dyn Future<Output = Reply> + Send>> {
            let order = call.attrs.len() as i64;
            call.attrs
                .insert(self.0.to_owned(), AttrValue::Integer(order));
            let answer = self.1.clone().map_err(|()| HookError {
                kind: HookErrorKind::Script,
                message: "route.lua:1: oops".to_owned(),
            });
            Box::pin(ready(Reply {
                answer,
                attrs: call.attrs,
                cost: Duration::ZERO,
            }))
        }
    }

    fn chain(links: Vec<(Fixed, OnError)>) -> Chain {
        let link = |(hook, on_error): (Fixed, OnError)| ChainEntry {
            stats: Arc::new(HookStats::new(hook.0)),
            hook: Arc::new(hook),
            on_error,
        };
        Chain::new(links.into_iter().map(link).collect())
    }

    fn subject() -> HookContext {
        HookContext {
            info: Arc::new(SessionInfo::new(
                "game",
                ([127, 0, 0, 1], 1).into(),
                ([127, 0, 0, 1], 2).into(),
            )),
            attrs: Attrs::new(),
            trace: Some(Arc::default()),
        }
    }

    fn deny(reason: &str) -> Result<Answer, ()> {
        Ok(Answer::Deny {
            reason: reason.to_owned(),
        })
    }

    #[tokio::test]
    async fn the_first_deny_ends_it() {
        let chain = chain(vec![
            (Fixed("a", Ok(Answer::Allow)), OnError::Deny),
            (Fixed("b", deny("full")), OnError::Deny),
            (Fixed("c", deny("never asked")), OnError::Deny),
        ]);
        let mut subject = subject();
        let denied = chain.access(&mut subject).await.unwrap_err();
        assert_eq!(
            (denied.hook.as_str(), denied.reason.as_str()),
            ("b", "full")
        );
        let asked: Vec<_> = subject.attrs.keys().collect();
        assert_eq!(asked, ["a", "b"], "attributes pass from hook to hook");
    }

    #[tokio::test]
    async fn the_first_target_counts() {
        let target = |name: &str| Target::Name(name.to_owned());
        let chain = chain(vec![
            (Fixed("a", Ok(Answer::Pass)), OnError::Deny),
            (Fixed("b", Ok(Answer::Target(target("x")))), OnError::Deny),
            (Fixed("c", Ok(Answer::Target(target("y")))), OnError::Deny),
        ]);
        let chosen = chain.select_target(&mut subject()).await;
        assert_eq!(chosen, Ok(Some(target("x"))));
    }

    #[tokio::test]
    async fn an_error_denies_or_is_skipped() {
        let chain_of = |on_error| {
            chain(vec![
                (Fixed("a", Err(())), on_error),
                (
                    Fixed("b", Ok(Answer::Message("hello".into()))),
                    OnError::Deny,
                ),
            ])
        };
        let skipped = chain_of(OnError::Skip)
            .announce(&mut subject(), "x:1")
            .await;
        assert_eq!(skipped, Ok(Bytes::from("hello")));
        let denied = chain_of(OnError::Deny)
            .announce(&mut subject(), "x:1")
            .await
            .unwrap_err();
        assert_eq!(denied.reason, "route.lua:1: oops");
        assert_eq!(denied.hook, "a");
    }

    #[tokio::test]
    async fn decisions_are_noted_and_counted() {
        let chain = chain(vec![
            (Fixed("a", Err(())), OnError::Skip),
            (Fixed("b", Ok(Answer::Pass)), OnError::Deny),
            (Fixed("c", deny("full")), OnError::Deny),
        ]);
        let mut subject = subject();
        chain.access(&mut subject).await.unwrap_err();
        let noted = subject.trace.as_ref().unwrap().decisions();
        let noted: Vec<_> = noted
            .iter()
            .map(|d| (d.hook(), d.question(), d.outcome.label(), d.attrs.is_some()))
            .collect();
        // A hook that passes at no cost was not asked.
        let expected = [
            ("a", "access", "error", false),
            ("c", "access", "deny", true),
        ];
        assert_eq!(noted, expected);
        let access = |at: usize| chain.links[at].stats.decisions().next().unwrap().1;
        let counts = |at| (access(at).latency.count(), access(at).denials.get());
        assert_eq!((counts(0), counts(1), counts(2)), ((1, 0), (0, 0), (0, 1)));
        assert_eq!(
            access(0).errors().into_iter().collect::<Vec<_>>(),
            [("script", 1)]
        );
        let last = chain.links[0].stats.last_error().unwrap();
        assert_eq!(last.message, "route.lua:1: oops");
    }
}
