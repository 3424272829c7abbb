//! Objects of one kind as JSON, over the API: whole objects are read and
//! written, as longhorn-manager does it.

use kube::{
    Client, Error,
    api::{DeleteParams, GetParams, ListParams, PostParams},
    core::Request,
};
use serde_json::Value;

/// One resource, in one namespace or in none.
#[derive(Clone)]
pub struct Objects {
    client: Client,
    requests: Request,
}

impl Objects {
    /// `api` is `/api/v1` or `/apis/<group>/<version>`.
    pub fn new(client: &Client, api: &str, namespace: Option<&str>, plural: &str) -> Self {
        let namespace = namespace.map_or(String::new(), |name| format!("/namespaces/{name}"));
        Self {
            client: client.clone(),
            requests: Request::new(format!("{api}{namespace}/{plural}")),
        }
    }

    pub async fn get(&self, name: &str) -> Result<Option<Value>, Error> {
        let request = self.requests.get(name, &GetParams::default());
        match self
            .client
            .request(request.map_err(Error::BuildRequest)?)
            .await
        {
            Ok(object) => Ok(Some(object)),
            Err(error) if code(&error) == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn list(&self) -> Result<Vec<Value>, Error> {
        let request = self.requests.list(&ListParams::default());
        let request = request.map_err(Error::BuildRequest)?;
        let mut list: Value = self.client.request(request).await?;
        match list["items"].take() {
            Value::Array(items) => Ok(items),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Object(_) => Ok(Vec::new()),
        }
    }

    pub async fn create(&self, object: &Value) -> Result<Value, Error> {
        let bytes = bytes(object)?;
        let request = self.requests.create(&PostParams::default(), bytes);
        self.client
            .request(request.map_err(Error::BuildRequest)?)
            .await
    }

    /// The object has the version that it was read with; where it is no longer
    /// that, the answer is 409.
    pub async fn replace(&self, object: &Value) -> Result<Value, Error> {
        let (name, bytes) = (name(object), bytes(object)?);
        let request = self.requests.replace(name, &PostParams::default(), bytes);
        self.client
            .request(request.map_err(Error::BuildRequest)?)
            .await
    }

    /// As [`Self::replace`], through the status subresource.
    pub async fn replace_status(&self, object: &Value) -> Result<Value, Error> {
        let (name, bytes) = (name(object), bytes(object)?);
        let request =
            self.requests
                .replace_subresource("status", name, &PostParams::default(), bytes);
        self.client
            .request(request.map_err(Error::BuildRequest)?)
            .await
    }

    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        let request = self.requests.delete(name, &DeleteParams::default());
        let request = request.map_err(Error::BuildRequest)?;
        match self.client.request::<Value>(request).await {
            Ok(_) => Ok(()),
            Err(error) if code(&error) == Some(404) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The HTTP code that the API server answered with.
pub fn code(error: &Error) -> Option<u16> {
    if let Error::Api(status) = error {
        Some(status.code)
    } else {
        None
    }
}

/// What the API server says beside its code.
pub fn message(error: &Error) -> &str {
    if let Error::Api(status) = error {
        &status.message
    } else {
        ""
    }
}

fn name(object: &Value) -> &str {
    crate::longhorn::lenient::text(object, "/metadata/name")
}

fn bytes(object: &Value) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(object).map_err(Error::SerdeError)
}
