//! Who is who: the tokens that this server has given out.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, header};
use uuid::Uuid;

use crate::admission::UserInfo;

/// A pod that a token is bound to.
#[derive(Debug, Clone)]
pub struct Pod {
    pub name: String,
    pub uid: String,
    /// Where it runs; empty for nowhere yet.
    pub node: String,
    /// Empty where the node is not known.
    pub node_uid: String,
}

/// A ServiceAccount.
#[derive(Debug, Clone)]
pub struct Account {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// All tokens that are good, until they are revoked or expire.
#[derive(Debug)]
pub struct Tokens {
    admin: String,
    issued: Mutex<HashMap<String, Issued>>,
}

#[derive(Debug)]
struct Issued {
    user: UserInfo,
    expires: Option<Instant>,
}

impl Tokens {
    pub fn new() -> Self {
        let admin = format!("admin-{}", Uuid::new_v4());
        let user = UserInfo {
            username: "system:admin".to_owned(),
            uid: String::new(),
            groups: groups(&["system:masters", "system:authenticated"]),
            extra: BTreeMap::new(),
        };
        let issued = Issued {
            user,
            expires: None,
        };
        Self {
            issued: Mutex::new(HashMap::from([(admin.clone(), issued)])),
            admin,
        }
    }

    pub fn admin(&self) -> String {
        self.admin.clone()
    }

    pub fn issue(&self, account: &Account, pod: Option<&Pod>, lives: Duration) -> String {
        let token = Uuid::new_v4();
        let mut extra = BTreeMap::new();
        let mut claim = |name: &str, value: &str| {
            if !value.is_empty() {
                let name = format!("authentication.kubernetes.io/{name}");
                extra.insert(name, vec![value.to_owned()]);
            }
        };
        claim("credential-id", &format!("JTI={token}"));
        if let Some(pod) = pod {
            claim("pod-name", &pod.name);
            claim("pod-uid", &pod.uid);
            claim("node-name", &pod.node);
            claim("node-uid", &pod.node_uid);
        }
        let Account {
            namespace,
            name,
            uid,
        } = account;
        let user = UserInfo {
            username: format!("system:serviceaccount:{namespace}:{name}"),
            uid: uid.clone(),
            groups: groups(&[
                "system:serviceaccounts",
                &format!("system:serviceaccounts:{namespace}"),
                "system:authenticated",
            ]),
            extra,
        };
        let token = format!("account-{token}");
        let issued = Issued {
            user,
            expires: Instant::now().checked_add(lives),
        };
        self.issued().insert(token.clone(), issued);
        token
    }

    pub fn revoke(&self, token: &str) {
        self.issued().remove(token);
    }

    /// Who sent this request; none when the token is not good.
    pub fn user(&self, headers: &HeaderMap) -> Option<UserInfo> {
        let Some(given) = headers.get(header::AUTHORIZATION) else {
            return Some(anonymous());
        };
        let token = given.to_str().ok()?.strip_prefix("Bearer ")?;
        let issued = self.issued();
        let found = issued.get(token.trim())?;
        let lives = found.expires.is_none_or(|expires| Instant::now() < expires);
        lives.then(|| found.user.clone())
    }

    fn issued(&self) -> MutexGuard<'_, HashMap<String, Issued>> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub const ANONYMOUS: &str = "system:anonymous";

fn anonymous() -> UserInfo {
    UserInfo {
        username: ANONYMOUS.to_owned(),
        groups: groups(&["system:unauthenticated"]),
        ..UserInfo::default()
    }
}

fn groups(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
