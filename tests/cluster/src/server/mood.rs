//! The ways in which an API server can be out of sorts.

use std::time::Duration;

/// How the server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mood {
    /// As it should.
    #[default]
    Well,
    /// Not at all. For everybody: nobody listens on the port, and what was open
    /// is closed. For some: connections are closed without an answer.
    Refusing,
    /// As it should, so much later. Others do not wait.
    Slow(Duration),
    /// A page of HTML, with this code.
    Garbage(u16),
    /// A `Status` with this code.
    Failing(u16),
    /// A `Status` with the code 504, so much later: what is behind it does not
    /// answer.
    GivingUp(Duration),
    /// As it should, except that a watch is forbidden.
    NoWatch,
    /// As it should, except that a watch never even begins.
    SilentWatch,
    /// Takes requests and never answers.
    Silent,
    /// As it should, except that a watch ends as soon as it has begun.
    WatchEndsAtOnce,
}

/// Who meets a mood.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Whom {
    /// All requests.
    #[default]
    Everybody,
    /// Those of a user, by the whole name.
    User(String),
    /// Those about a kind of objects.
    Resource {
        /// Empty for the core.
        group: String,
        /// Plural name.
        plural: String,
    },
}

impl Whom {
    /// Those of a ServiceAccount.
    #[must_use]
    pub fn account(namespace: &str, name: &str) -> Self {
        Self::User(format!("system:serviceaccount:{namespace}:{name}"))
    }

    /// Those about `nodes.longhorn.io`.
    #[must_use]
    pub fn longhorn_nodes() -> Self {
        Self::Resource {
            group: "longhorn.io".to_owned(),
            plural: "nodes".to_owned(),
        }
    }

    fn is(&self, user: &str, group: &str, plural: &str) -> bool {
        match self {
            Self::Everybody => true,
            Self::User(name) => name == user,
            Self::Resource {
                group: of,
                plural: resource,
            } => of == group && resource == plural,
        }
    }
}

/// All moods; the last that was set and fits is met.
#[derive(Debug, Default)]
pub struct Moods(Vec<(Whom, Mood)>);

impl Moods {
    pub fn set(&mut self, whom: Whom, mood: Mood) {
        self.0.retain(|(one, _)| *one != whom);
        if mood != Mood::Well {
            self.0.push((whom, mood));
        }
    }

    /// All are well again.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn met_by(&self, user: &str, group: &str, plural: &str) -> Mood {
        let fits = self.0.iter().rev();
        let mut fits = fits.filter(|(whom, _)| whom.is(user, group, plural));
        fits.next().map(|(_, mood)| *mood).unwrap_or_default()
    }

    /// Whether nobody is to listen.
    pub fn is_closed(&self) -> bool {
        self.0.contains(&(Whom::Everybody, Mood::Refusing))
    }
}
