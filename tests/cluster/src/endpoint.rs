//! An API server as a client needs to know it, whichever it is.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a fixture that cannot go on should say so and stop"
)]

use std::time::Duration;

use anyhow::{Context, Result};
use axum::http::Request;
use k8s_openapi::ByteString;
use kube::{Client, Config};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};

/// Where an API server is, and as whom to speak to it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `https://127.0.0.1:6443`.
    pub url: String,
    /// Certificates that the server's is signed by; none for plain HTTP.
    pub ca_pem: Option<String>,
    /// Bearer token.
    pub token: String,
}

impl Endpoint {
    /// The same server for somebody else.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            token: token.to_owned(),
            ..self.clone()
        }
    }

    /// For `kube`.
    ///
    /// # Panics
    ///
    /// When the URL or the certificates are none.
    #[must_use]
    pub fn config(&self) -> Config {
        let mut config = Config::new(self.url.parse().expect("a URL"));
        config.root_cert = self.ca_pem.as_ref().map(|pem| {
            CertificateDer::pem_slice_iter(pem.as_bytes())
                .map(|one| one.expect("a certificate").to_vec())
                .collect()
        });
        config.auth_info.token = Some(self.token.clone().into());
        config
    }

    /// Speaks to the server. It connects when it is used first.
    ///
    /// # Panics
    ///
    /// Outside of a runtime.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::try_from(self.config()).expect("a client")
    }

    /// Creates an object, or merges it into the one that is there, by server-side
    /// apply. What a definition defines is served when this returns.
    ///
    /// # Errors
    ///
    /// When the server has no such kind or does not take the object.
    pub async fn apply(&self, object: &Value) -> Result<Value> {
        let client = self.client();
        let text = |pointer: &str| {
            let value = object.pointer(pointer).and_then(Value::as_str);
            value.unwrap_or_default().to_owned()
        };
        let (version, kind) = (text("/apiVersion"), text("/kind"));
        let name = text("/metadata/name");
        let root = if version.contains('/') { "apis" } else { "api" };
        let kinds: Value = client
            .request(Request::get(format!("/{root}/{version}")).body(Vec::new())?)
            .await
            .with_context(|| format!("there is no {version}"))?;
        let kinds = kinds["resources"].as_array().into_iter().flatten();
        let found = kinds
            .filter(|one| one["kind"] == json!(kind))
            .find(|one| one["name"].as_str().is_some_and(|name| !name.contains('/')))
            .with_context(|| format!("there is no {kind} in {version}"))?;
        let plural = found["name"].as_str().unwrap_or_default();
        let inside = if found["namespaced"] == json!(true) {
            let given = text("/metadata/namespace");
            let namespace = if given.is_empty() { "default" } else { &given };
            format!("namespaces/{namespace}/")
        } else {
            String::new()
        };
        let path =
            format!("/{root}/{version}/{inside}{plural}/{name}?fieldManager=tests&force=true");
        let request = Request::patch(path)
            .header("content-type", "application/apply-patch+yaml")
            .body(object.to_string().into_bytes())?;
        let applied: Value = client
            .request(request)
            .await
            .with_context(|| format!("{kind} {name} is not taken"))?;
        if kind == "CustomResourceDefinition" {
            self.wait_until_served(&client, object).await?;
        }
        Ok(applied)
    }

    async fn wait_until_served(&self, client: &Client, definition: &Value) -> Result<()> {
        let spec = &definition["spec"];
        let part = |pointer: &str| spec.pointer(pointer).and_then(Value::as_str);
        let group = part("/group").context("no group")?;
        let plural = part("/names/plural").context("no plural")?;
        let version = part("/versions/0/name").context("no version")?;
        let path = format!("/apis/{group}/{version}/{plural}?limit=1");
        loop {
            let request = Request::get(&path).body(Vec::new())?;
            match client.request::<Value>(request).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(other) => return Err(other.into()),
            }
        }
    }

    /// The text of a kubeconfig, as JSON, which is YAML as well.
    #[must_use]
    pub fn kubeconfig(&self) -> Value {
        let mut cluster = json!({"server": self.url});
        if let Some(pem) = &self.ca_pem {
            cluster["certificate-authority-data"] = json!(ByteString(pem.clone().into_bytes()));
        }
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": self.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        })
    }
}
