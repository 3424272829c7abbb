//! Connections and requests: from the socket to the verb.

use std::{fmt, net::SocketAddr, sync::Arc};

use axum::{
    body::{Body, Bytes, to_bytes},
    http::{HeaderMap, HeaderValue, Response, StatusCode, header, request::Parts},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{
    Shared, authorize,
    call::{self, Answer, Call},
    discovery,
    failure::Failure,
    mood::Mood,
    reviews,
    rows::Shape,
    seen::{NODE_CLAIM, Seen},
    target::Target,
    tokens::ANONYMOUS,
};
use crate::admission::UserInfo;

/// As the real server limits a request.
const BODY_MOST: usize = 3 * 1024 * 1024;

/// The connection is closed without an answer.
#[derive(Debug)]
struct HungUp;

impl fmt::Display for HungUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("closed without an answer")
    }
}

impl std::error::Error for HungUp {}

/// A socket that holds a port, whether anybody listens there or not.
pub fn bound(address: SocketAddr) -> TcpSocket {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    };
    let socket = socket.expect("a socket");
    socket
        .set_reuseport(true)
        .expect("a port that can be shared");
    socket
        .bind(address)
        .unwrap_or_else(|e| panic!("cannot listen on {address}: {e}"));
    socket
}

/// Listens while the server is open, until the runtime ends.
pub async fn run(shared: Arc<Shared>, address: SocketAddr, tls: Option<TlsAcceptor>) {
    let mut open = shared.open.subscribe();
    while open.wait_for(|open| *open).await.is_ok() {
        let listener = bound(address).listen(4_096).expect("a listener");
        shared.listens(true);
        accept_all(&shared, &listener, tls.as_ref(), &mut open).await;
        drop(listener);
        shared.listens(false);
    }
}

/// Until the server is closed, and with it all connections.
async fn accept_all(
    shared: &Arc<Shared>,
    listener: &TcpListener,
    tls: Option<&TlsAcceptor>,
    open: &mut watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // A client that is gone again is its own affair.
                if let Ok((stream, _)) = accepted {
                    connections.spawn(connection(Arc::clone(shared), stream, tls.cloned()));
                }
            }
            Some(_) = connections.join_next() => {}
            _ = open.wait_for(|open| !*open) => break,
        }
    }
    connections.shutdown().await;
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, tls: Option<TlsAcceptor>) {
    // Only a matter of delay.
    drop(stream.set_nodelay(true));
    match tls {
        None => requests(shared, stream).await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                requests(shared, stream).await;
            }
        }
    }
}

async fn requests(shared: Arc<Shared>, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let service = service_fn(|request| answer(Arc::clone(&shared), request));
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // A client that goes away in the middle, or one that was hung up on.
    drop(served.await);
}

async fn answer(
    shared: Arc<Shared>,
    request: hyper::Request<Incoming>,
) -> Result<Response<Body>, HungUp> {
    let (parts, body) = request.into_parts();
    let target = Target::of(&parts.method, &parts.uri);
    let user = shared.tokens.user(&parts.headers);
    let number = shared.log.came(seen(&target, &parts, user.as_ref()));
    let response = match moody(&shared, &target, user.as_ref()).await? {
        Some(response) => response,
        None => match to_bytes(Body::new(body), BODY_MOST).await {
            Ok(body) => respond(&shared, &target, user.as_ref(), &parts.headers, body),
            Err(_too_large) => {
                let message = "Request entity too large: limit is 3145728";
                refused(&Failure::new(413, "RequestEntityTooLarge", message))
            }
        },
    };
    shared.log.answered(number, response.status().as_u16());
    Ok(response)
}

fn seen(target: &Target, parts: &Parts, user: Option<&UserInfo>) -> Seen {
    let agent = parts.headers.get(header::USER_AGENT);
    let agent = agent.and_then(|value| value.to_str().ok());
    Seen {
        user: user.map(|user| user.username.clone()).unwrap_or_default(),
        node: user
            .and_then(|user| user.extra.get(NODE_CLAIM)?.first().cloned())
            .unwrap_or_default(),
        verb: target.verb.clone(),
        group: target.group.clone(),
        version: target.version.clone(),
        resource: target.resource.clone(),
        subresource: target.subresource.clone(),
        namespace: target.namespace.clone(),
        name: target.name.clone(),
        path: target.path.clone(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        user_agent: agent.unwrap_or_default().to_owned(),
        status: 0,
    }
}

/// The answer of a server that is out of sorts; none when it does its work.
async fn moody(
    shared: &Shared,
    target: &Target,
    user: Option<&UserInfo>,
) -> Result<Option<Response<Body>>, HungUp> {
    let user = user.map(|user| user.username.as_str()).unwrap_or_default();
    let mood = shared.moods().met_by(user, &target.group, &target.resource);
    let watches = target.verb == "watch";
    let made_to = |code: u16| {
        let message = format!("made to fail with {code}");
        let mut response = refused(&Failure::new(code, reason(code), message));
        if code == 429 {
            let second = HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, second);
        }
        response
    };
    Ok(match mood {
        Mood::Refusing => return Err(HungUp),
        Mood::Slow(time) => {
            tokio::time::sleep(time).await;
            None
        }
        Mood::Garbage(code) => {
            let mut response = Response::new(Body::from("<html>\nplease log in\n</html>\n"));
            *response.status_mut() = StatusCode::from_u16(code).expect("a status code");
            Some(response)
        }
        Mood::Failing(code) => Some(made_to(code)),
        Mood::GivingUp(time) => {
            tokio::time::sleep(time).await;
            Some(made_to(504))
        }
        Mood::NoWatch if watches => Some(made_to(403)),
        Mood::WatchEndsAtOnce if watches => Some(Response::new(Body::empty())),
        Mood::SilentWatch if watches => std::future::pending().await,
        Mood::Silent => std::future::pending().await,
        Mood::Well | Mood::NoWatch | Mood::WatchEndsAtOnce | Mood::SilentWatch => None,
    })
}

/// As the real server calls these codes.
fn reason(code: u16) -> &'static str {
    match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "",
    }
}

fn refused(failure: &Failure) -> Response<Body> {
    call::json_response(failure.status_code(), &failure.to_status())
}

fn respond(
    shared: &Shared,
    target: &Target,
    user: Option<&UserInfo>,
    headers: &HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let Some(user) = user else {
        return refused(&Failure::unauthorized());
    };
    let rbac = shared.options.rbac;
    let decision = authorize::decide(&shared.store, rbac, user, target);
    if !decision.allowed {
        // Without authorization nobody is let in without a name.
        let nameless = user.username == ANONYMOUS && !rbac;
        return refused(&if nameless {
            Failure::unauthorized()
        } else {
            authorize::forbidden(user, target, &decision)
        });
    }
    let content_type = call::content_type(headers);
    if let Some(answer) = reviews::answer(shared, target, user, &content_type, &body) {
        return answer.map_or_else(|failure| refused(&failure), Answer::into_response);
    }
    if target.resource.is_empty() {
        return discovery::answer(shared, target).unwrap_or_else(|failure| refused(&failure));
    }
    let resource = shared
        .store
        .resource(&target.group, &target.version, &target.resource);
    let Some(resource) = resource.filter(|one| one.namespaced || !has_namespace(target)) else {
        // In plain text, as the real server says that there is no such kind.
        let mut response = Response::new(Body::from("404 page not found\n"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    };
    let call = Call {
        shared,
        target,
        resource,
        user,
        shape: Shape::of(headers, target),
        content_type,
        body,
    };
    done(&call).unwrap_or_else(|failure| refused(&failure))
}

/// Whether the path has a namespace that the object itself is not.
fn has_namespace(target: &Target) -> bool {
    let itself = target.group.is_empty() && target.resource == "namespaces";
    !target.namespace.is_empty() && !itself
}

fn done(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let (target, resource) = (call.target, &call.resource);
    let verb = target.verb.as_str();
    match target.subresource.as_str() {
        "" => {}
        "status" if resource.status => {
            if !matches!(verb, "get" | "update" | "patch") {
                return Err(Failure::method_not_allowed());
            }
        }
        "token" if resource.is("", "serviceaccounts") && verb == "create" => {
            return call.issue_token().map(Answer::into_response);
        }
        _ => return Err(Failure::no_resource()),
    }
    // All namespaces at once can be read, not written.
    let everywhere = resource.namespaced && target.namespace.is_empty();
    let answer = match verb {
        "watch" => return call.watch(),
        "list" => call.list(),
        _ if everywhere => Err(Failure::method_not_allowed()),
        "get" => call.get(),
        "create" if target.name.is_empty() => call.create(),
        "update" if !target.name.is_empty() => call.update(),
        "patch" if !target.name.is_empty() => call.patch(),
        "delete" => call.delete(),
        "deletecollection" => call.delete_selected(),
        _ => Err(Failure::method_not_allowed()),
    };
    answer.map(Answer::into_response)
}
