package probe

import (
	"math/rand/v2"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// How long a posture counts, and so how often it is looked at again. What is
// bad is looked at soon, and ever more seldom while it stays so.
const (
	worksLeast, worksMost = time.Hour, 24 * time.Hour // by the TTL of the records, in these bounds
	badFirst, badMost     = 10 * time.Minute, 6 * time.Hour
	doubtFirst, doubtMost = time.Minute, 30 * time.Minute
	alarmMost             = 30 * time.Minute // where an alarm has not ended
	refreshAhead          = 5                // a fifth of the lifetime before the end
	jitter                = 5                // up to a fifth less, so that what was found together does not stay together
	refreshUsed           = 24 * time.Hour   // without a question for so long nothing is refreshed
	forgetAfter           = 90 * 24 * time.Hour
	spreadAtStart         = 10 * time.Minute // over which stale postures are looked at after a start
	sweepEvery            = time.Hour
	backgroundReuse       = 2 * time.Minute // age of a session's result that a background look accepts
)

// kind groups the states that share a schedule.
func kind(s policy.State) int {
	switch s {
	case policy.Works:
		return 0
	case policy.Absent, policy.Broken, policy.NoMail:
		return 1
	}
	return 2
}

// lifetime is how long a state counts, and after what time it is looked at
// again: before the end where TLS works, so that the posture never gets stale, and
// at the end otherwise. failures counts from 1.
func lifetime(s policy.State, failures int, ttl time.Duration) (life, next time.Duration) {
	switch kind(s) {
	case 0:
		life = min(max(ttl, worksLeast), worksMost)
		return life, less(life - life/refreshAhead)
	case 1:
		life = grow(badFirst, badMost, failures)
	default:
		life = grow(doubtFirst, doubtMost, failures)
	}
	life = less(life)
	return life, life
}

func grow(first, most time.Duration, failures int) time.Duration {
	d := first
	for i := 1; i < failures && d < most; i++ {
		d *= 2
	}
	return min(d, most)
}

func less(d time.Duration) time.Duration { return d - rand.N(d/jitter+1) }
