//! The task that keeps a [`View`] up to date.
//!
//! It works in sessions. A session builds a client, lists the one object, then
//! watches it until something fails. Every session begins with a list, and
//! between sessions there is always a pause that grows: a watch that was only
//! resumed would say nothing as long as the object does not change, so that a
//! failure would stay in view after it has gone.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use kube::{
    Api, Client, Config,
    client::ClientBuilder,
    runtime::watcher::{self, watch_object},
};
use tokio::sync::watch;
use tower::limit::RateLimitLayer;

use super::{
    LonghornSettings, View,
    api::{configured, short, words},
    node::Node,
};
use crate::backoff::Backoff;

/// A connection on which nothing comes for so long is given up. The API server
/// sends a bookmark about once a minute on a watch where nothing happens.
const SILENCE: Duration = Duration::from_secs(100);
/// A session that lasted this long was a good one: the next pause is short.
const STEADY: Duration = Duration::from_mins(1);
/// Requests of one session in [`REQUESTS_PER`]. It needs two, and one every
/// five minutes after that; but kube resumes a watch that was closed without an
/// error at once and as often as that happens, and tells nobody.
const REQUESTS: u64 = 3;
const REQUESTS_PER: Duration = Duration::from_mins(1);
/// What the pauses are counted for.
const API: &str = "longhorn";

/// Why a session ended.
#[derive(Debug)]
struct Interrupted {
    /// When the API first answered in this session.
    answered: Option<Instant>,
    /// What there is to see if it did not.
    view: View,
}

/// What the watch hands out.
#[derive(Debug, Clone)]
pub struct Sight {
    /// What there is to see for people and decisions; changes seldom.
    pub view: watch::Receiver<View>,
    /// The object itself as last heard, none where there is none.
    pub node: watch::Receiver<Option<Arc<Node>>>,
}

/// The other ends.
#[derive(Debug)]
struct Senders {
    view: watch::Sender<View>,
    node: watch::Sender<Option<Arc<Node>>>,
}

/// Follows this node's Longhorn Node with the service account of the pod or,
/// outside of a pod, with the kubeconfig of the user.
///
/// Returns at once. The task goes on through every failure, and ends when
/// nobody holds a receiver any more. Must be called inside a tokio runtime.
pub fn spawn(settings: LonghornSettings) -> Sight {
    spawn_with(settings, configured)
}

/// As [`spawn`], with the way to the API server from elsewhere. `config` is
/// asked before each session; its error is shown to people.
pub fn spawn_with<F, C>(settings: LonghornSettings, config: F) -> Sight
where
    F: FnMut() -> C + Send + 'static,
    C: Future<Output = Result<Config, String>> + Send,
{
    let (to_view, view) = watch::channel(View::Connecting);
    let (to_node, node) = watch::channel(None);
    let senders = Senders {
        view: to_view,
        node: to_node,
    };
    drop(tokio::spawn(async move {
        tokio::select! {
            () = senders.view.closed() => {}
            never = follow(&settings, config, &senders) => never,
        }
    }));
    Sight { view, node }
}

/// A view that stays [`View::Off`].
pub fn off() -> Sight {
    Sight {
        view: watch::channel(View::Off).1,
        node: watch::channel(None).1,
    }
}

async fn follow<F, C>(settings: &LonghornSettings, mut config: F, senders: &Senders) -> !
where
    F: FnMut() -> C,
    C: Future<Output = Result<Config, String>>,
{
    let mut backoff = Backoff::default();
    loop {
        let interrupted = session(settings, config().await, senders).await;
        match interrupted.answered {
            // The next list tells what has become of it.
            Some(since) => {
                tracing::debug!(why = %interrupted.view, "the watch of the Longhorn node ended");
                if since.elapsed() >= STEADY {
                    backoff.forget(API);
                }
            }
            None => {
                // What cannot be asked for is not known any more; an outage
                // passes.
                let gone = matches!(
                    interrupted.view,
                    View::NotInstalled | View::Forbidden { .. }
                );
                show(&senders.view, interrupted.view);
                if gone {
                    senders.node.send_replace(None);
                }
            }
        }
        let now = Instant::now();
        backoff.failed(API, String::new(), now);
        let pause = backoff
            .next(now)
            .map_or(STEADY, |again| again.duration_since(now));
        tokio::time::sleep(pause).await;
    }
}

/// One list and one watch, until something fails.
async fn session(
    settings: &LonghornSettings,
    config: Result<Config, String>,
    senders: &Senders,
) -> Interrupted {
    let mut answered = None;
    let client = config.and_then(|config| client(config).map_err(|error| words(&error)));
    let view = match client {
        Err(why) => unreachable(&why),
        Ok(client) => {
            let api = Api::<Node>::namespaced(client, &settings.namespace);
            let mut nodes = pin!(watch_object(api, &settings.node_name));
            loop {
                match nodes.next().await {
                    Some(Ok(node)) => {
                        answered.get_or_insert_with(Instant::now);
                        let node = node.map(Arc::new);
                        // The view first: who looks because of the object finds
                        // both.
                        show(&senders.view, View::of(node.as_deref()));
                        senders.node.send_replace(node);
                    }
                    Some(Err(error)) => break failure(error),
                    None => break unreachable("the watch ended"),
                }
            }
        }
    };
    Interrupted { answered, view }
}

fn client(mut config: Config) -> kube::Result<Client> {
    // The pauses between sessions are ours; retries within would multiply them.
    config.default_retry = false;
    config.read_timeout.get_or_insert(SILENCE);
    Ok(ClientBuilder::try_from(config)?
        .with_layer(&RateLimitLayer::new(REQUESTS, REQUESTS_PER))
        .build())
}

fn failure(error: watcher::Error) -> View {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404 => {
            View::NotInstalled
        }
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
            if status.code == 403 =>
        {
            View::Forbidden {
                why: short(&status.message),
            }
        }
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => unreachable(&words(&error)),
        watcher::Error::WatchError(status) => unreachable(&words(&kube::Error::Api(status))),
        watcher::Error::NoResourceVersion => {
            unreachable("the answer of the API server has no resourceVersion")
        }
    }
}

fn unreachable(why: &str) -> View {
    View::Unreachable { why: short(why) }
}

/// Tells of changes only: Longhorn writes to the object all the time.
fn show(sender: &watch::Sender<View>, view: View) {
    sender.send_if_modified(|shown| {
        let changed = *shown != view;
        if changed {
            tracing::info!(%view, "Longhorn node");
            *shown = view;
        }
        changed
    });
}
