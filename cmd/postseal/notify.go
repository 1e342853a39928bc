package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notifyReady tells systemd that the servers are up (sd_notify(3)).
func notifyReady(log *slog.Logger) {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.Warn("could not notify systemd", "error", err)
	}
}

// watchdog pats systemd's watchdog at half its interval, as long as alive
// says that the program does its job. It returns when ctx is done, or at once
// where there is no watchdog.
func watchdog(ctx context.Context, log *slog.Logger, alive func(context.Context) error) error {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		return err
	}
	tick := time.NewTicker(interval / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			daemon.SdNotify(false, daemon.SdNotifyStopping)
			return nil
		case <-tick.C:
			check, cancel := context.WithTimeout(ctx, interval/2)
			if err := alive(check); err != nil {
				log.Error("watchdog: not well", "error", err)
			} else {
				daemon.SdNotify(false, daemon.SdNotifyWatchdog)
			}
			cancel()
		}
	}
}
