//! Connection counts of one user or app on one node, split by what the connections may see.

use std::fmt;

use super::{AppId, Invalid, Scope};

/// The connections of one user or app, by scope. An app's own sockets count as open to all apps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectionCounts {
    all_apps: u32,
    by_app: Vec<(AppId, u32)>,
}

impl ConnectionCounts {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> usize {
        self.by_app.iter().map(|(_, count)| *count as usize).sum::<usize>() + self.all_apps as usize
    }

    /// The connections that get what `app` publishes. `None`: all of them.
    #[must_use]
    pub fn visible_to(&self, app: Option<&AppId>) -> usize {
        let Some(app) = app else { return self.total() };
        let own = self.by_app.iter().find(|(of, _)| of == app).map_or(0, |(_, count)| *count);
        own as usize + self.all_apps as usize
    }

    /// Counts a connection that was opened.
    pub fn add(&mut self, scope: &Scope) {
        match scope {
            Scope::AllApps => self.all_apps += 1,
            Scope::App(app) => match self.by_app.iter_mut().find(|(of, _)| of == app) {
                Some((_, count)) => *count += 1,
                None => self.by_app.push((app.clone(), 1)),
            },
        }
    }

    /// Counts a connection that was closed.
    pub fn remove(&mut self, scope: &Scope) {
        match scope {
            Scope::AllApps => self.all_apps = self.all_apps.saturating_sub(1),
            Scope::App(app) => {
                if let Some((_, count)) = self.by_app.iter_mut().find(|(of, _)| of == app) {
                    *count = count.saturating_sub(1);
                }
                self.by_app.retain(|(_, count)| *count > 0);
            }
        }
    }

    /// Parses what `Display` wrote.
    ///
    /// # Errors
    /// [`Invalid`] for anything else.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let wrong = || Invalid::new("must be a total, then counts by app");
        let mut counts = Self::default();
        let mut words = text.split(' ');
        let total: usize = words.next().and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
        for word in words {
            let (app, count) = word.split_once(':').ok_or_else(wrong)?;
            let count: u32 = count.parse().map_err(|_| wrong())?;
            match app {
                "*" => counts.all_apps = count,
                app => counts.by_app.push((AppId::parse(app)?, count)),
            }
        }
        if counts.total() == total { Ok(counts) } else { Err(wrong()) }
    }
}

/// For example `3 *:1 work-buddy:2`: the total comes first, so that a script in Redis can read it without parsing the
/// rest.
impl fmt::Display for ConnectionCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.total())?;
        if self.all_apps > 0 {
            write!(f, " *:{}", self.all_apps)?;
        }
        self.by_app.iter().try_for_each(|(app, count)| write!(f, " {app}:{count}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_sees_its_own_and_those_that_see_all_apps() {
        let [a, b] = ["a", "b"].map(|id| AppId::parse(id).unwrap());
        let mut counts = ConnectionCounts::default();
        for scope in [Scope::AllApps, Scope::App(a.clone()), Scope::App(a.clone())] {
            counts.add(&scope);
        }
        assert_eq!(
            (counts.total(), counts.visible_to(Some(&a)), counts.visible_to(Some(&b)), counts.visible_to(None)),
            (3, 3, 1, 3)
        );
        counts.remove(&Scope::App(a.clone()));
        counts.remove(&Scope::App(b));
        assert_eq!((counts.total(), counts.visible_to(Some(&a))), (2, 2));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut counts = ConnectionCounts::default();
        assert_eq!(ConnectionCounts::parse(&counts.to_string()), Ok(counts.clone()));
        counts.add(&Scope::AllApps);
        counts.add(&Scope::App(AppId::parse("work-buddy").unwrap()));
        assert_eq!(counts.to_string(), "2 *:1 work-buddy:1");
        assert_eq!(ConnectionCounts::parse(&counts.to_string()), Ok(counts));
        for bad in ["", "x", "2", "1 *:2", "1 a", "1 A:1"] {
            assert!(ConnectionCounts::parse(bad).is_err(), "{bad}");
        }
    }
}
