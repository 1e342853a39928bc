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
	o, err := ownerOf(path)
	if err != nil || o == nil {
		return err
	}
	if err := syscall.Setgroups(o.groups); err != nil {
		return fmt.Errorf("become user %d, who owns the database: set groups: %w", o.uid, err)
	}
	if err := syscall.Setresgid(o.gid, o.gid, o.gid); err != nil {
		return fmt.Errorf("become user %d, who owns the database: set group: %w", o.uid, err)
	}
	if err := syscall.Setresuid(o.uid, o.uid, o.uid); err != nil {
		return fmt.Errorf("become user %d, who owns the database: %w", o.uid, err)
	}
	return nil
}

// AsOwner calls f with the effective rights of the user whose the database is, as
// [DropToOwner] finds them, and takes root's back: for a command that must do both. f
// closes what it opens. No other goroutine may rely on the rights meanwhile.
func AsOwner(path string, f func() error) (err error) {
	o, err := ownerOf(path)
	if err != nil {
		return err
	}
	if o == nil {
		return f()
	}
	groups, err := syscall.Getgroups()
	if err != nil {
		return err
	}
	defer func() {
		back := errors.Join(syscall.Setresuid(-1, 0, -1), syscall.Setresgid(-1, 0, -1), syscall.Setgroups(groups))
		if back != nil {
			err = errors.Join(err, fmt.Errorf("become root again: %w", back))
		}
	}()
	if err := errors.Join(syscall.Setgroups(o.groups), syscall.Setresgid(-1, o.gid, -1), syscall.Setresuid(-1, o.uid, -1)); err != nil {
		return fmt.Errorf("become user %d, who owns the database: %w", o.uid, err)
	}
	return f()
}

type owner struct {
	uid, gid int
	groups   []int
}

// ownerOf returns whose rights are to be taken; nil where nothing is to be done.
func ownerOf(path string) (*owner, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		fi, err = os.Stat(filepath.Dir(path))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("database %s: its directory does not exist: create it, owned by the user that postseal serves as", path)
	} else if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, fmt.Errorf("database %s: its owner is not known", path)
	}
	uid, gid := int(st.Uid), int(st.Gid)
	if uid == 0 {
		return nil, nil
	}
	// The file's group, in case the user has no entry of its own.
	groups := []int{gid}
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		if g, err := strconv.Atoi(u.Gid); err == nil {
			gid = g
		}
		ids, err := u.GroupIds()
		if err != nil {
			return nil, fmt.Errorf("groups of %s, who owns the database: %w", u.Username, err)
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
		return nil, fmt.Errorf("database %s: its owner %d has the group of root: chown it to the user that postseal serves as", path, uid)
	}
	return &owner{uid, gid, groups}, nil
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
