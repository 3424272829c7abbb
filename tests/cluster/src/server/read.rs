//! `get` and `list`.

use axum::http::StatusCode;

use super::{
    call::{Answer, Call},
    failure::Failure,
    rows,
    selector::Selector,
};

impl Call<'_> {
    pub fn get(&self) -> Result<Answer, Failure> {
        self.check_asked_version()?;
        let place = self.resource.place();
        let name = self.target.name.as_str();
        let store = &self.shared.store;
        let stored = store
            .read(&place, self.namespace(), name)
            .ok_or_else(|| Failure::not_found(&self.resource, name))?;
        Ok(self.answer(StatusCode::OK, &stored, Vec::new()))
    }

    /// All at once: `limit` is taken as a wish, which the API allows.
    pub fn list(&self) -> Result<Answer, Failure> {
        self.check_asked_version()?;
        let selector = Selector::of(self.target, &self.resource)?;
        let place = self.resource.place();
        let (objects, version) = self.shared.store.select(&place, &selector.scope);
        let objects = objects
            .iter()
            .filter(|object| selector.selects(object))
            .map(|object| self.shown(object))
            .collect();
        let body = rows::list(&self.resource, &self.shape, objects, version);
        Ok(Answer::new(StatusCode::OK, body))
    }

    /// Nobody can have seen a version that has not been given out.
    fn check_asked_version(&self) -> Result<(), Failure> {
        let Some(asked) = self.target.parameter("resourceVersion") else {
            return Ok(());
        };
        let asked: u64 = asked.parse().map_err(|_no_number| invalid_version(asked))?;
        let current = self.shared.store.version();
        if asked > current {
            return Err(Failure::from_the_future(asked, current));
        }
        Ok(())
    }
}

pub fn invalid_version(asked: &str) -> Failure {
    Failure::bad_request(format!("Invalid value: {asked:?}: must be a number"))
}
