//! Watches.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, Response, header},
};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::{
    call::{Call, shown},
    failure::{Failure, Flaw},
    read::invalid_version,
    resource::Resource,
    rows::{self, Shape},
    selector::Selector,
    store::Watch,
    table::{Change, Happened, Told},
};

/// So long before its end a watch says once more how far it has come.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);

/// How the objects of a watch are written.
struct Lines {
    resource: Arc<Resource>,
    shape: Shape,
    selector: Selector,
}

/// A watch that is being served.
struct Watching {
    lines: Lines,
    watch: Watch,
    ready: VecDeque<Bytes>,
    /// When the next bookmark is due, and how long it is to the one after.
    bookmark: Option<(Instant, Duration)>,
    until: Instant,
    ended: bool,
}

impl Call<'_> {
    pub fn watch(&self) -> Result<Response<Body>, Failure> {
        let selector = Selector::of(self.target, &self.resource)?;
        let asked = self.target.parameter("resourceVersion");
        let asked: u64 = match asked {
            Some(asked) => asked.parse().map_err(|_no_number| invalid_version(asked))?,
            None => 0,
        };
        let bookmarks = self.target.flag("allowWatchBookmarks");
        let initial = self.wants_initial_events(bookmarks)?;
        let lines = Lines {
            resource: Arc::clone(&self.resource),
            shape: self.shape.clone(),
            selector,
        };
        let place = self.resource.place();
        let store = &self.shared.store;
        let mut ready = VecDeque::new();
        let watch = if initial.unwrap_or(asked == 0) {
            let (objects, version, watch) = store.list_and_watch(&place, &lines.selector.scope);
            let objects = objects
                .iter()
                .filter(|object| lines.selector.selects(object));
            ready.extend(objects.map(|object| lines.line("ADDED", object)));
            if initial == Some(true) {
                ready.push_back(lines.bookmark(version, true));
            }
            watch
        } else {
            let after = Some(asked).filter(|asked| *asked > 0);
            match store.watch(&place, &lines.selector.scope, after) {
                Ok(watch) => watch,
                // Said as the first and last word of a watch that was granted.
                Err(expired) => return Ok(response(Body::from(error(&expired)))),
            }
        };
        ready.extend(watch.past.iter().filter_map(|change| lines.of(change)));
        let now = Instant::now();
        let every = self.shared.options.bookmarks;
        let until = now + self.lasts();
        let watching = Watching {
            lines,
            watch,
            ready,
            bookmark: bookmarks.then(|| (next_bookmark(now, every, until), every)),
            until,
            ended: false,
        };
        let lines = stream::unfold(watching, |mut watching| async move {
            let line = watching.next().await?;
            Some((Ok::<Bytes, Infallible>(line), watching))
        });
        Ok(response(Body::from_stream(lines)))
    }

    /// As long as the client wants; if it does not say, half an hour to an hour,
    /// so that watches do not all end together.
    fn lasts(&self) -> Duration {
        let asked = self.target.parameter("timeoutSeconds");
        let asked = asked.and_then(|seconds| seconds.parse().ok());
        let seconds = asked.unwrap_or_else(|| rand::random_range(1_800..3_600));
        Duration::from_secs(seconds).min(self.shared.options.watch_timeout_cap)
    }

    /// The list as the beginning of the watch, if the client asks for it.
    fn wants_initial_events(&self, bookmarks: bool) -> Result<Option<bool>, Failure> {
        let matching = self.target.parameter("resourceVersionMatch");
        let wanted = self.target.parameter("sendInitialEvents");
        let wrong = |field: &str, why: &str| {
            let flaw = Flaw::forbidden(field, why);
            Failure::invalid_kind("ListOptions", "meta.k8s.io", "", &[flaw])
        };
        match (wanted, matching) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(wrong(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            )),
            (Some(_), None) => Err(wrong(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            )),
            (Some(wanted), Some("NotOlderThan")) => {
                let wanted = wanted == "true";
                if wanted && !bookmarks {
                    let why = "sendInitialEvents requires setting allowWatchBookmarks to true";
                    return Err(wrong("sendInitialEvents", why));
                }
                Ok(Some(wanted))
            }
            (Some(_), Some(_)) => Err(wrong(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            )),
        }
    }
}

impl Watching {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            let due = self
                .bookmark
                .map_or(self.until, |(due, _)| due.min(self.until));
            match timeout_at(due, self.watch.told.recv()).await {
                Ok(Some(Told::Change(change))) => self.ready.extend(self.lines.of(&change)),
                Ok(Some(Told::Bookmark(version))) => {
                    self.ready.push_back(self.lines.bookmark(version, false));
                }
                Ok(Some(Told::Expired(oldest))) => {
                    self.ended = true;
                    let expired = Failure::expired(oldest.saturating_sub(1), oldest);
                    self.ready.push_back(error(&expired));
                }
                Ok(Some(Told::Ended) | None) => return None,
                Err(_elapsed) => {
                    if Instant::now() >= self.until {
                        return None;
                    }
                    self.place_bookmark();
                }
            }
        }
    }

    /// It comes after what has been told by now, through the same queue.
    fn place_bookmark(&mut self) {
        self.watch.bookmark();
        let now = Instant::now();
        self.bookmark = self
            .bookmark
            .map(|(_, every)| (next_bookmark(now, every, self.until), every));
    }
}

fn next_bookmark(now: Instant, every: Duration, until: Instant) -> Instant {
    let last = until.checked_sub(LAST_BOOKMARK).filter(|last| *last > now);
    last.map_or(now + every, |last| last.min(now + every))
}

impl Lines {
    fn line(&self, event: &str, stored: &Value) -> Bytes {
        let object = rows::one(&self.resource, &self.shape, shown(&self.resource, stored));
        Bytes::from(format!("{}\n", json!({"type": event, "object": object})))
    }

    /// The line of a change; none where it is not for this watch.
    fn of(&self, change: &Change) -> Option<Bytes> {
        if self.selector.is_scope() {
            return Some(self.whole(change));
        }
        let now = change.happened != Happened::Deleted && self.selector.selects(&change.object);
        let before = change.before.as_ref();
        let before = before.filter(|before| self.selector.selects(before));
        match (now, before) {
            (true, Some(_)) => Some(self.whole(change)),
            (true, None) => Some(self.line("ADDED", &change.object)),
            // As it was while it was selected, at the version of the change.
            (false, Some(before)) => {
                let mut last = Value::clone(before);
                last["metadata"]["resourceVersion"] = change.version.to_string().into();
                Some(self.line("DELETED", &last))
            }
            (false, None) => None,
        }
    }

    /// Written once for all who want the object as it is stored.
    fn whole(&self, change: &Change) -> Bytes {
        let line = || self.line(change.happened.name(), &change.object);
        let as_stored = change.object["apiVersion"] == json!(self.resource.api_version());
        if as_stored && self.shape == Shape::Whole {
            return change.line.get_or_init(line).clone();
        }
        line()
    }

    fn bookmark(&self, version: u64, initial: bool) -> Bytes {
        let mut object = json!({
            "kind": self.resource.kind, "apiVersion": self.resource.api_version(),
            "metadata": {"resourceVersion": version.to_string(), "creationTimestamp": null},
        });
        if initial {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match &self.shape {
            Shape::Table(include) => {
                let mut table = rows::table(&self.resource, include, &[], &json!(""));
                table["metadata"] = object["metadata"].clone();
                table
            }
            Shape::Whole | Shape::Metadata => rows::one(&self.resource, &self.shape, object),
        };
        Bytes::from(format!(
            "{}\n",
            json!({"type": "BOOKMARK", "object": object})
        ))
    }
}

fn error(failure: &Failure) -> Bytes {
    let object = failure.to_status();
    Bytes::from(format!("{}\n", json!({"type": "ERROR", "object": object})))
}

fn response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
