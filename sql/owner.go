package sql

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// DropToOwner makes a process of root's that of the user whose the database at
// path is, or where it is missing its directory: for good, with that user's
// groups. Otherwise a command run by root would leave files behind (the database,
// its -wal and -shm) that the service can't open. It is called before [Open]
// and before anything else that makes files; what only root may do is done
// before.
//
// It does nothing if the process is not root's, or if the owner is root.
func DropToOwner(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		fi, err = os.Stat(filepath.Dir(path))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("database %s: its directory does not exist: create it, owned by the user that postseal serves as", path)
	} else if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("database %s: its owner is not known", path)
	}
	uid, gid := int(st.Uid), int(st.Gid)
	if uid == 0 {
		return nil
	}
	// The file's group, in case the user has no entry of its own.
	groups := []int{gid}
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		if g, err := strconv.Atoi(u.Gid); err == nil {
			gid = g
		}
		ids, err := u.GroupIds()
		if err != nil {
			return fmt.Errorf("groups of %s, who owns the database: %w", u.Username, err)
		}
		for _, id := range ids {
			if g, err := strconv.Atoi(id); err == nil && g != groups[0] {
				groups = append(groups, g)
			}
		}
	}
	// The group of root is never kept, not even where the file has it.
	groups = dropZero(groups)
	if gid == 0 {
		return fmt.Errorf("database %s: its owner %d has the group of root: chown it to the user that postseal serves as", path, uid)
	}
	if err := syscall.Setgroups(groups); err != nil {
		return fmt.Errorf("become user %d, who owns the database: set groups: %w", uid, err)
	}
	if err := syscall.Setresgid(gid, gid, gid); err != nil {
		return fmt.Errorf("become user %d, who owns the database: set group: %w", uid, err)
	}
	if err := syscall.Setresuid(uid, uid, uid); err != nil {
		return fmt.Errorf("become user %d, who owns the database: %w", uid, err)
	}
	return nil
}

func dropZero(groups []int) []int {
	kept := groups[:0]
	for _, g := range groups {
		if g != 0 {
			kept = append(kept, g)
		}
	}
	return kept
}
