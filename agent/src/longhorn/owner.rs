//! Who speaks for a node. Pure.
//!
//! Two agents can be given the name of one node by mistake, and neither could
//! see the other's disks: each would take the other's registrations for its
//! own. So the Node says whose agent speaks for it. An agent that finds another
//! one there asks, by a second annotation, whether that one still lives; who
//! lives takes the question away, and the one that asked registers nothing. A
//! question that nobody answers was put to an agent that is gone, as after a
//! new installation of the host. No clock is compared between machines, and
//! nothing is written while nothing changes.

use std::time::Duration;

use super::node::Node;

/// Annotation: the agent that speaks for the node.
pub const AGENT: &str = "disk-discovery/agent";
/// Annotation: the agent that asks whether that one still lives.
pub const QUESTION: &str = "disk-discovery/is-agent-alive";
/// How long an answer is waited for. One write may have to wait for 30 s until
/// Longhorn has taken notice of the one before.
pub const ANSWER: Duration = Duration::from_secs(90);
/// How long after an answer the question is put again: the mistake may have
/// been mended by stopping the other one.
pub const AGAIN: Duration = Duration::from_mins(30);

/// What an agent remembers of its question.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Asked {
    /// It has none.
    #[default]
    No,
    /// It was put so long ago.
    Since(Duration),
    /// It was answered so long ago.
    Answered(Duration),
}

/// Who speaks, and what there is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// This agent does, and the Node says so.
    Me,
    /// This agent does as soon as it writes its name along with something else.
    Nobody,
    /// This agent does, and was asked: it takes the question away.
    MeAsked,
    /// Another one does, as it seems: ask it.
    Ask(String),
    /// It was asked, and there is time left.
    Waiting(String),
    /// Another one does.
    Other(String),
    /// It has not answered: this agent takes over.
    TakeOver(String),
}

impl Owner {
    /// Whether this agent may register disks.
    pub fn is_me(&self) -> bool {
        match self {
            Self::Me | Self::Nobody | Self::MeAsked | Self::TakeOver(_) => true,
            Self::Ask(_) | Self::Waiting(_) | Self::Other(_) => false,
        }
    }
}

/// Who speaks for a node, as an agent sees it.
pub fn owner(node: &Node, me: &str, asked: Asked) -> Owner {
    let said = |key: &str| {
        let annotations = node.metadata.annotations.as_ref()?;
        let value = annotations.get(key)?.trim();
        (!value.is_empty()).then(|| value.to_owned())
    };
    let (agent, question) = (said(AGENT), said(QUESTION));
    let Some(agent) = agent else {
        return Owner::Nobody;
    };
    if agent == me {
        return match question {
            Some(_) => Owner::MeAsked,
            None => Owner::Me,
        };
    }
    let mine = question.as_deref() == Some(me);
    match (asked, question) {
        (Asked::Since(since), Some(_)) if mine && since >= ANSWER => Owner::TakeOver(agent),
        (Asked::Since(_), Some(_)) if mine => Owner::Waiting(agent),
        // It was taken away: somebody lives.
        (Asked::Since(_), None) => Owner::Other(agent),
        (Asked::Answered(since), _) if since < AGAIN => Owner::Other(agent),
        // A question of this agent's before it was started again.
        (Asked::No | Asked::Answered(_), _) => Owner::Ask(agent),
        // A third one asks as well: one of the two is enough.
        (Asked::Since(_), Some(_)) => Owner::Other(agent),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(agent: Option<&str>, question: Option<&str>) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "k3s2", "annotations": {
            AGENT: agent.unwrap_or(""), QUESTION: question.unwrap_or(""),
        }}}))
        .expect("a node")
    }

    const LONG: Asked = Asked::Since(ANSWER);
    const SHORT: Asked = Asked::Since(Duration::from_secs(1));

    #[test]
    fn an_agent_alone_asks_nobody() {
        assert_eq!(owner(&node(None, None), "a", Asked::No), Owner::Nobody);
        assert_eq!(owner(&node(Some("a"), None), "a", Asked::No), Owner::Me);
    }

    #[test]
    fn one_that_is_asked_answers_and_goes_on() {
        let asked = node(Some("a"), Some("b"));
        assert_eq!(owner(&asked, "a", Asked::No), Owner::MeAsked);
        assert!(owner(&asked, "a", Asked::No).is_me());
    }

    #[test]
    fn one_that_finds_another_asks_and_writes_nothing_else() {
        let b = |question, asked| owner(&node(Some("a"), question), "b", asked);
        let a = || "a".to_owned();
        assert_eq!(b(None, Asked::No), Owner::Ask(a()));
        assert_eq!(b(Some("b"), SHORT), Owner::Waiting(a()));
        assert_eq!(b(None, SHORT), Owner::Other(a()));
        assert_eq!(b(None, LONG), Owner::Other(a()));
        let answered = Asked::Answered(Duration::from_secs(1));
        assert_eq!(b(None, answered), Owner::Other(a()));
        for silent in [
            b(None, Asked::No),
            b(Some("b"), SHORT),
            b(None, LONG),
            b(None, answered),
        ] {
            assert!(!silent.is_me());
        }
        assert_eq!(b(None, Asked::Answered(AGAIN)), Owner::Ask(a()));
    }

    #[test]
    fn one_that_does_not_answer_is_gone() {
        let silent = node(Some("a"), Some("b"));
        assert_eq!(owner(&silent, "b", LONG), Owner::TakeOver("a".to_owned()));
        // Started again while it waited: the time begins anew.
        assert_eq!(owner(&silent, "b", Asked::No), Owner::Ask("a".to_owned()));
        // Two that ask at once do not both take over.
        let other = node(Some("a"), Some("c"));
        assert!(!owner(&other, "b", LONG).is_me());
    }
}
