//! The webhook as a real API server asks it.

use cluster_fixtures::longhorn::{WebhookServer, rules::mutations, webhook_server::configurations};
use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{
        MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
    },
};
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::{NO_BLOCK, node, without};

/// What the webhook answers to a review, over HTTPS.
async fn ask(server: &WebhookServer, path: &str, request: Value) -> Result<Value, kube::Error> {
    let mut config = kube::Config::new(server.url().parse().expect("an address"));
    let pem = server.ca_pem().as_bytes();
    let certificates = rustls::pki_types::CertificateDer::pem_slice_iter(pem);
    let certificates = certificates.map(|der| der.expect("a certificate").to_vec());
    config.root_cert = Some(certificates.collect());
    config.default_retry = false;
    let client = kube::Client::try_from(config).expect("a client");
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request,
    });
    let body = serde_json::to_vec(&review).expect("JSON");
    let request = axum::http::Request::post(path)
        .header("content-type", "application/json")
        .body(body);
    let mut answer: Value = client.request(request.expect("a request")).await?;
    assert_eq!(answer["kind"], "AdmissionReview");
    assert_eq!(answer["response"]["uid"], "1");
    Ok(answer["response"].take())
}

#[tokio::test]
async fn a_real_server_is_answered_with_a_patch_and_with_a_status() {
    let server = WebhookServer::start(NO_BLOCK);
    let bare = json!({"metadata": {"name": "k3s1"}, "spec": {"disks": {"a": {"path": "/a"}}}});
    let request = json!({"uid": "1", "operation": "CREATE", "object": bare, "oldObject": null});
    let answer = ask(&server, "/v1/webhook/mutation", request).await.unwrap();
    assert_eq!(
        (&answer["allowed"], &answer["patchType"]),
        (&json!(true), &json!("JSONPatch"))
    );
    let patch: ByteString = serde_json::from_value(answer["patch"].clone()).unwrap();
    let patch: Value = serde_json::from_slice(&patch.0).unwrap();
    assert_eq!(patch, json!(mutations(&bare)));

    let request = json!({"uid": "1", "operation": "UPDATE", "object": node(), "oldObject": node()});
    let answer = ask(&server, "/v1/webhook/validation", request)
        .await
        .unwrap();
    assert_eq!(answer["allowed"], true);

    let unsynced = without(node(), "/status");
    let request =
        json!({"uid": "1", "operation": "UPDATE", "object": node(), "oldObject": unsynced});
    let answer = ask(&server, "/v1/webhook/validation", request)
        .await
        .unwrap();
    assert_eq!(answer["allowed"], false);
    assert_eq!(
        (&answer["status"]["code"], &answer["status"]["reason"]),
        (&json!(403), &json!("Forbidden"))
    );

    let request = json!({"uid": "1", "operation": "DELETE", "object": null, "oldObject": node()});
    let answer = ask(&server, "/v1/webhook/validation", request)
        .await
        .unwrap();
    assert_eq!(answer["status"]["code"], 422);
    let cause = &answer["status"]["details"]["causes"][0];
    assert_eq!(cause["reason"], "FieldValueInvalid");

    server.set_down(true);
    let request = json!({"uid": "1", "operation": "UPDATE", "object": node(), "oldObject": node()});
    let gone = ask(&server, "/v1/webhook/validation", request).await;
    let error = gone.expect_err("down");
    assert!(!matches!(error, kube::Error::Api(_)), "an answer: {error}");
}

#[test]
fn a_real_server_is_told_to_ask_about_nodes_and_to_refuse_without_an_answer() {
    let (validating, mutating) = configurations("https://127.0.0.1:1", "a certificate");
    let typed: ValidatingWebhookConfiguration = serde_json::from_value(validating).unwrap();
    let [webhook] = &typed.webhooks.expect("webhooks")[..] else {
        panic!("one webhook");
    };
    assert_eq!(webhook.name, "validator.longhorn.io");
    assert_eq!(webhook.failure_policy.as_deref(), Some("Fail"));
    assert_eq!(
        webhook.client_config.url.as_deref(),
        Some("https://127.0.0.1:1/v1/webhook/validation")
    );
    let ca = webhook.client_config.ca_bundle.as_ref().expect("a CA");
    assert_eq!(ca.0, b"a certificate");
    let rule = &webhook.rules.as_ref().expect("rules")[0];
    assert_eq!(rule.resources.as_deref(), Some(&["nodes".to_owned()][..]));
    let typed: MutatingWebhookConfiguration = serde_json::from_value(mutating).unwrap();
    let webhook = &typed.webhooks.expect("webhooks")[0];
    assert_eq!(webhook.name, "mutator.longhorn.io");
    let rule = &webhook.rules.as_ref().expect("rules")[0];
    let operations = rule.operations.as_ref().expect("operations");
    assert_eq!(operations[..], ["CREATE", "UPDATE"]);
}
