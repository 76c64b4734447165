//! HTTP for people and Prometheus: `/metrics`, `/plugins`, `/why`, `/savepoint`, `/healthz`. Read-only.
//!
//! On a thread of its own, and of what the job's threads left there: it answers while the job waits for a broker.

use crate::error::{Error, Kind};
use crate::runtime::desk::{Desk, DeskError};
use crate::runtime::metrics::Metrics;
use crate::runtime::swap::Swapper;
use axum::extract::RawQuery;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{Encoder, TextEncoder};
use std::net::SocketAddr;
use std::sync::Arc;

/// Serves until the process ends, on a thread of its own.
///
/// # Errors
/// When the address can't be bound.
pub fn serve(address: SocketAddr, metrics: Arc<Metrics>, swapper: Arc<Swapper>, desk: Arc<Desk>) -> Result<SocketAddr, Error> {
    let taken = |e: std::io::Error| Error::new(Kind::Config, format!("--metrics {address} can't be used: {e}"));
    let listener = std::net::TcpListener::bind(address).map_err(taken)?;
    listener.set_nonblocking(true).map_err(taken)?;
    let bound = listener.local_addr().map_err(taken)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(taken)?;
    let (of_plugins, of_why) = (Arc::clone(&swapper), Arc::clone(&metrics));
    let router = axum::Router::new()
        .route("/metrics", get(move || async move { render(&metrics, &swapper) }))
        .route("/plugins", get(move || async move { json(&of_plugins.statuses()) }))
        .route("/why", get(move || async move { json(&of_why.status.why()) }))
        .route("/savepoint", get(move |query: RawQuery| savepoint(Arc::clone(&desk), query)))
        .route("/healthz", get(|| async { "ok\n" }));
    std::thread::spawn(move || {
        let served = runtime.block_on(async { axum::serve(tokio::net::TcpListener::from_std(listener)?, router).await });
        if let Err(error) = served {
            tracing::error!("metrics are served no longer: {error}");
        }
    });
    tracing::info!("metrics at http://{bound}/metrics");
    Ok(bound)
}

fn render(metrics: &Metrics, swapper: &Swapper) -> impl IntoResponse + use<> {
    let mut families = metrics.registry.gather();
    let mut text = Vec::new();
    let written = crate::runtime::metrics::plugin_families(&swapper.plugins()).and_then(|guests| {
        families.extend(guests);
        TextEncoder::new().encode(&families, &mut text)
    });
    match written {
        Ok(()) => (StatusCode::OK, [(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], error.to_string().into_bytes()),
    }
}

fn json<T: serde::Serialize>(value: &T) -> impl IntoResponse + use<T> {
    match serde_json::to_string(value) {
        Ok(body) => (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], error.to_string()),
    }
}

/// A savepoint of the running job; of one key with `?key=` and the encoded key as hexadecimal digits.
async fn savepoint(desk: Arc<Desk>, RawQuery(query): RawQuery) -> impl IntoResponse + use<> {
    let text = |status, text: String| (status, [(header::CONTENT_TYPE, "text/plain")], text.into_bytes());
    let key = match query.as_deref().map(|q| q.strip_prefix("key=").and_then(bytes_of_hex)) {
        None => None,
        Some(Some(key)) => Some(key),
        Some(None) => return text(StatusCode::BAD_REQUEST, "ask for /savepoint, or /savepoint?key=HEX".into()),
    };
    // The job may take its time; other questions are answered meanwhile.
    let made = tokio::task::spawn_blocking(move || desk.savepoint(key, crate::time::now_ms())).await;
    match made {
        Ok(Ok(bytes)) => (StatusCode::OK, [(header::CONTENT_TYPE, "application/octet-stream")], bytes),
        Ok(Err(error @ DeskError::Large)) => text(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()),
        Ok(Err(error)) => text(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Bytes of hexadecimal digits.
fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |d: u8| char::from(d).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some((digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?) as u8)).collect()
}
