//! How many connection places a user or app holds on one node, and what their holders may see.

use std::fmt;

use super::{AppId, Invalid, Scope};

/// Places of one stream's holder, by scope. An app's own sockets count as seeing all that is theirs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    all_apps: u32,
    by_app: Vec<(AppId, u32)>,
}

impl Held {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> usize {
        self.by_app.iter().map(|(_, count)| *count as usize).sum::<usize>() + self.all_apps as usize
    }

    /// Those whose holders are shown what `app` publishes; `None`: all.
    #[must_use]
    pub fn seen_by(&self, app: Option<&AppId>) -> usize {
        let Some(app) = app else { return self.total() };
        let own = self.by_app.iter().find(|(of, _)| of == app).map_or(0, |(_, count)| *count);
        own as usize + self.all_apps as usize
    }

    pub fn add(&mut self, scope: &Scope) {
        match scope {
            Scope::AllApps => self.all_apps += 1,
            Scope::App(app) => match self.by_app.iter_mut().find(|(of, _)| of == app) {
                Some((_, count)) => *count += 1,
                None => self.by_app.push((app.clone(), 1)),
            },
        }
    }

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

    /// Reads what [`Held`]'s `Display` wrote.
    ///
    /// # Errors
    /// [`Invalid`] for anything else.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let wrong = || Invalid::new("must be a total, then counts by app");
        let mut held = Self::default();
        let mut words = text.split(' ');
        let total: usize = words.next().and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
        for word in words {
            let (app, count) = word.split_once(':').ok_or_else(wrong)?;
            let count: u32 = count.parse().map_err(|_| wrong())?;
            match app {
                "*" => held.all_apps = count,
                app => held.by_app.push((AppId::parse(app)?, count)),
            }
        }
        if held.total() == total { Ok(held) } else { Err(wrong()) }
    }
}

/// `3 *:1 work-buddy:2`: the total first, for who reads no further.
impl fmt::Display for Held {
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
        let mut held = Held::default();
        for scope in [Scope::AllApps, Scope::App(a.clone()), Scope::App(a.clone())] {
            held.add(&scope);
        }
        assert_eq!((held.total(), held.seen_by(Some(&a)), held.seen_by(Some(&b)), held.seen_by(None)), (3, 3, 1, 3));
        held.remove(&Scope::App(a.clone()));
        held.remove(&Scope::App(b));
        assert_eq!((held.total(), held.seen_by(Some(&a))), (2, 2));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut held = Held::default();
        assert_eq!(Held::parse(&held.to_string()), Ok(held.clone()));
        held.add(&Scope::AllApps);
        held.add(&Scope::App(AppId::parse("work-buddy").unwrap()));
        assert_eq!(held.to_string(), "2 *:1 work-buddy:1");
        assert_eq!(Held::parse(&held.to_string()), Ok(held));
        for bad in ["", "x", "2", "1 *:2", "1 a", "1 A:1"] {
            assert!(Held::parse(bad).is_err(), "{bad}");
        }
    }
}
