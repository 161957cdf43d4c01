//! Which nodes are silent, as far as this one can say: if most others give no sign of life either, it is cut off itself.

use super::{silence::Standing, state::Families};

/// How a node stands over IPv4 and over IPv6.
pub(super) type Standings = [Standing; 2];

/// How all nodes stand.
#[derive(Debug, Default)]
pub(super) struct Jury {
    /// In the order of the targets.
    nodes: Vec<Standings>,
    /// That these are gone is known already: their silence says nothing of this node.
    away: Vec<bool>,
    /// This node is cut off, over IPv4 and over IPv6.
    cut_off: [bool; 2],
}

impl Jury {
    /// Nodes of which nothing is known, and whether they are known to be gone.
    pub(super) fn new(away: Vec<bool>) -> Jury {
        Jury { nodes: vec![Standings::default(); away.len()], away, cut_off: [false; 2] }
    }

    /// A node stands like this now. `fresh` counts the nodes that have just given a sign of life over a family (1 is IPv6). Returns whether
    /// what is said of others has changed, too.
    pub(super) fn set(&mut self, place: usize, new: Standings, fresh: impl Fn(usize) -> usize) -> bool {
        let Some(known) = self.nodes.get_mut(place).filter(|known| **known != new) else { return false };
        *known = new;
        let before = self.cut_off;
        for (family, cut_off) in self.cut_off.iter_mut().enumerate() {
            let doubtful = |(node, away): &(&Standings, &bool)| node[family] != Standing::Alive && !**away;
            let doubtful = self.nodes.iter().zip(&self.away).filter(doubtful).count();
            // This node itself is alive.
            *cut_off = doubtful > 0 && fresh(family) + 1 < doubtful;
        }
        self.cut_off != before
    }

    /// Where a node is silent.
    pub(super) fn silent(&self, place: usize) -> Families {
        let Some(node) = self.nodes.get(place) else { return Families::default() };
        let silent = |family: usize| node[family] == Standing::Silent && !self.cut_off[family];
        Families { ipv4: silent(0), ipv6: silent(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALIVE: Standings = [Standing::Alive; 2];
    const SUSPECTED: Standings = [Standing::Suspected; 2];
    const SILENT: Standings = [Standing::Silent; 2];
    const BOTH: Families = Families { ipv4: true, ipv6: true };

    fn jury(nodes: &[Standings], away: &[bool], fresh: usize) -> Jury {
        let mut jury = Jury::new(away.to_vec());
        for (place, node) in nodes.iter().enumerate() {
            jury.set(place, *node, |_| fresh);
        }
        jury
    }

    /// A8: one that is itself cut off does not judge.
    #[test]
    fn a_node_says_of_others_that_they_are_silent_while_at_least_half_of_all_are_heard() {
        assert_eq!(jury(&[SILENT], &[false], 0).silent(0), BOTH, "one of two");
        assert_eq!(jury(&[SILENT, ALIVE], &[false; 2], 1).silent(0), BOTH, "one of three");
        let two = jury(&[SILENT, SILENT], &[false; 2], 0);
        assert_eq!((two.silent(0), two.silent(1)), Default::default(), "two of three: it is this one");
        let doubt = jury(&[SILENT, SUSPECTED], &[false; 2], 0);
        assert_eq!(doubt.silent(0), Families::default(), "the other is about to be");
        assert_eq!(jury(&[SILENT, SILENT, ALIVE], &[false; 3], 1).silent(1), BOTH, "two of four");
    }

    #[test]
    fn nodes_that_are_known_to_be_gone_prove_nothing() {
        let gone = jury(&[SILENT, SILENT, SILENT, ALIVE], &[true, true, false, false], 1);
        assert_eq!(gone.silent(2), BOTH);
        assert_eq!(gone.silent(0), BOTH);
    }

    #[test]
    fn families_are_told_apart() {
        let only_ipv4 = [Standing::Silent, Standing::Alive];
        let jury = jury(&[only_ipv4, ALIVE], &[false; 2], 1);
        assert_eq!(jury.silent(0), Families { ipv4: true, ipv6: false });
    }

    #[test]
    fn who_is_cut_off_takes_back_what_it_said_and_says_so_again_once_it_hears_the_others() {
        let mut jury = Jury::new(vec![false; 3]);
        jury.set(0, SILENT, |_| 2);
        assert_eq!(jury.silent(0), BOTH);
        assert!(!jury.set(1, SUSPECTED, |_| 1), "one still answers");
        assert!(jury.set(2, SUSPECTED, |_| 0), "nobody does");
        assert_eq!(jury.silent(0), Families::default());
        assert!(jury.set(1, ALIVE, |_| 1));
        assert_eq!(jury.silent(0), BOTH);
    }
}
