// An open-loop load: requests are due at a fixed rate whether or not the earlier ones were answered.
//
//	openloop -rate 1000 -seconds 3 -connections 64 -H 'Authorization: Bearer …' http://127.0.0.1:8000/path
//
// A request's latency begins when it was due, so waiting for a connection that a slow answer holds counts as well: what a
// closed loop, which waits for the answer before it asks again, leaves out. Prints one JSON object.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

type lines []string

func (l *lines) String() string         { return strings.Join(*l, "\r\n") }
func (l *lines) Set(value string) error { *l = append(*l, value); return nil }

type worker struct {
	latencies []time.Duration
	failures  int
}

func main() {
	rate := flag.Float64("rate", 100, "requests a second")
	seconds := flag.Float64("seconds", 3, "for how long")
	warm := flag.Float64("warm", 0, "seconds before that, at the same rate, that are not counted")
	connections := flag.Int("connections", 64, "how many requests may be under way")
	var headers lines
	flag.Var(&headers, "H", "a header line; may be given again")
	flag.Parse()
	target, err := url.Parse(flag.Arg(0))
	if err != nil || target.Host == "" {
		log.Fatal("give one URL")
	}
	request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\n", target.RequestURI(), target.Host)
	for _, header := range headers {
		request += header + "\r\n"
	}
	runtime.GOMAXPROCS(2) // the pacer's thread sleeps in the kernel, which must not hold up the others

	due := make(chan time.Time, int(*rate*(*warm+*seconds))+1)
	workers := make([]worker, *connections)
	var all sync.WaitGroup
	var counted time.Time
	for i := range workers {
		all.Add(1)
		conn, err := net.Dial("tcp", target.Host) // before the clock runs
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer all.Done()
			workers[i].run(conn, []byte(request+"\r\n"), due, &counted)
		}()
	}
	started := time.Now()
	counted = started.Add(time.Duration(*warm * float64(time.Second)))
	slowest := pace(due, started, *rate, *warm+*seconds)
	all.Wait()
	report(workers, time.Since(counted), slowest)
}

// pace hands out each request when it is due, and says how late the latest was handed out.
func pace(due chan<- time.Time, started time.Time, rate, seconds float64) time.Duration {
	runtime.LockOSThread()
	defer close(due)
	var latest time.Duration
	for i := range int(rate * seconds) {
		at := started.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		if wait := time.Until(at); wait > 0 {
			// Finer than time.Sleep, which counts in milliseconds.
			pause := syscall.NsecToTimespec(int64(wait))
			syscall.Nanosleep(&pause, nil)
		}
		latest = max(latest, time.Since(at))
		due <- at
	}
	return latest
}

// run reads `counted` only after something is due, when it is known.
func (w *worker) run(conn net.Conn, request []byte, due <-chan time.Time, counted *time.Time) {
	in := bufio.NewReader(conn)
	for at := range due {
		if err := exchange(conn, in, request); err == nil {
			if !at.Before(*counted) {
				w.latencies = append(w.latencies, time.Since(at))
			}
			continue
		}
		w.failures++
		conn.Close()
		if again, err := net.Dial("tcp", conn.RemoteAddr().String()); err == nil {
			conn = again
			in.Reset(conn)
		}
	}
}

func exchange(conn net.Conn, in *bufio.Reader, request []byte) error {
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write(request); err != nil {
		return err
	}
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, response.Body)
	if response.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("answered %s", response.Status)
	}
	return err
}

func report(workers []worker, took, latest time.Duration) {
	var all []time.Duration
	failures := 0
	for _, w := range workers {
		all = append(all, w.latencies...)
		failures += w.failures
	}
	if len(all) == 0 {
		log.Fatalf("no answer; %d failures", failures)
	}
	slices.Sort(all)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	at := func(share float64) float64 { return ms(all[int(share*float64(len(all)-1))]) }
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"rate": float64(len(all)) / took.Seconds(), "failures": failures, "pacer_late_ms": ms(latest),
		"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": at(1),
	})
}
