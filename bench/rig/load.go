package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

type settings struct {
	proxy, target, token string
	clients              int
	count                int64
	duration, warm       time.Duration
	rate                 float64
	fresh, h2            bool
	pid                  int
}

type result struct {
	Good      int     `json:"good"`
	Bad       int     `json:"bad"`
	PerSecond float64 `json:"per_second"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	P999      float64 `json:"p999_ms"`
	CPU       float64 `json:"cpu_us"` // of the gateway, its threads and children, per request
	Bytes     int64   `json:"bytes"`
	Generator float64 `json:"generator"` // share of one processor that this process took
	Late      float64 `json:"late_ms"`   // p99 of how late the generator itself was (open loop)
}

func load(args []string) {
	var s settings
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	flags.StringVar(&s.proxy, "proxy", "", "the gateway, http://host:port")
	flags.StringVar(&s.target, "target", "", "URL to ask for")
	flags.StringVar(&s.token, "token", "u1", "the user's bearer token")
	flags.IntVar(&s.clients, "clients", 16, "connections, or requests at once")
	flags.Int64Var(&s.count, "count", 0, "stop after so many requests, without warm-up")
	flags.DurationVar(&s.duration, "duration", 5*time.Second, "how long to measure")
	flags.DurationVar(&s.warm, "warm", 500*time.Millisecond, "how long to load before that")
	flags.Float64Var(&s.rate, "rate", 0, "requests a second, sent on time whatever comes back; 0 = closed loop")
	flags.BoolVar(&s.fresh, "fresh", false, "a new connection for each request")
	flags.BoolVar(&s.h2, "h2", false, "HTTP/2 inside TLS")
	flags.IntVar(&s.pid, "pid", 0, "the gateway's process, whose CPU time is measured")
	flags.Parse(args)
	clients := make([]func() (int64, bool), s.clients)
	for i := range clients {
		clients[i] = s.client()
	}
	if s.count == 0 {
		s.run(clients, s.warm)
	}
	before, own := cpu(s.pid), self()
	out := s.run(clients, s.duration)
	total := float64(out.Good + out.Bad)
	out.CPU = (cpu(s.pid) - before) / total * 1e6
	out.Generator = (self() - own) / (total / out.PerSecond)
	json.NewEncoder(os.Stdout).Encode(out)
}

// run loads the gateway for a while; latencies count from when a request was due, not from when it was sent.
func (s *settings) run(clients []func() (int64, bool), duration time.Duration) result {
	var mutex sync.Mutex
	var group sync.WaitGroup
	var taken, due atomic.Int64
	var out result
	var latencies, late []float64
	start := time.Now()
	end := start.Add(duration)
	for _, client := range clients {
		group.Add(1)
		go func(ask func() (int64, bool)) {
			defer group.Done()
			for (s.count > 0 || time.Now().Before(end)) && (s.count == 0 || taken.Add(1) <= s.count) {
				t, behind := time.Now(), 0.0
				if s.rate > 0 {
					t = start.Add(time.Duration(float64(due.Add(1)) / s.rate * 1e9))
					if t.After(end) {
						return
					}
					if wait := time.Until(t); wait > 0 {
						time.Sleep(wait)
						behind = time.Since(t).Seconds() * 1e3
					}
				}
				n, ok := ask()
				elapsed := time.Since(t).Seconds() * 1e3
				mutex.Lock()
				latencies, late = append(latencies, elapsed), append(late, behind)
				out.Bytes += n
				if ok {
					out.Good++
				} else {
					out.Bad++
				}
				mutex.Unlock()
			}
		}(client)
	}
	group.Wait()
	out.PerSecond = float64(out.Good+out.Bad) / time.Since(start).Seconds()
	sort.Float64s(latencies)
	sort.Float64s(late)
	out.P50, out.P99, out.P999 = quantile(latencies, .5), quantile(latencies, .99), quantile(latencies, .999)
	out.Late = quantile(late, .99)
	return out
}

func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(q*float64(len(sorted)-1))]
}

// client gives a function that makes one request and says how large its body was and whether all went well.
func (s *settings) client() func() (int64, bool) {
	if strings.HasPrefix(s.target, "http:") && !s.fresh {
		return s.cheapClient()
	}
	proxy, err := url.Parse(s.proxy)
	if err != nil {
		panic(err)
	}
	transport := &http.Transport{Proxy: http.ProxyURL(proxy), MaxIdleConnsPerHost: 1, DisableKeepAlives: s.fresh,
		DisableCompression: true, ForceAttemptHTTP2: s.h2, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	client := &http.Client{Transport: transport, Timeout: 60 * time.Second}
	return func() (int64, bool) {
		request, _ := http.NewRequest("GET", s.target, nil)
		request.Header.Set("Authorization", "Bearer "+s.token)
		response, err := client.Do(request)
		if err != nil {
			return 0, false
		}
		n, err := io.Copy(io.Discard, response.Body)
		response.Body.Close()
		return n, err == nil && response.StatusCode == 200 && (!s.h2 || response.ProtoMajor == 2)
	}
}

// cheapClient speaks just enough HTTP/1.1, so that the generator is not what is measured.
func (s *settings) cheapClient() func() (int64, bool) {
	proxy, _ := url.Parse(s.proxy)
	target, _ := url.Parse(s.target)
	message := []byte("GET " + s.target + " HTTP/1.1\r\nHost: " + target.Host + "\r\nAuthorization: Bearer " + s.token + "\r\n\r\n")
	var conn net.Conn
	var reader *bufio.Reader
	ask := func() (int64, bool, error) {
		if conn == nil {
			var err error
			if conn, err = net.Dial("tcp", proxy.Host); err != nil {
				return 0, false, err
			}
			reader = bufio.NewReaderSize(conn, 65536)
		}
		if _, err := conn.Write(message); err != nil {
			return 0, false, err
		}
		status, err := reader.ReadString('\n')
		if err != nil {
			return 0, false, err
		}
		length := int64(0)
		for {
			line, err := reader.ReadString('\n')
			if err != nil {
				return 0, false, err
			}
			if line == "\r\n" {
				break
			}
			if name, value, _ := strings.Cut(line, ":"); strings.EqualFold(name, "content-length") {
				length, _ = strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			}
		}
		n, err := io.CopyN(io.Discard, reader, length)
		return n, strings.Contains(status, " 200"), err
	}
	return func() (int64, bool) {
		n, ok, err := ask()
		if err != nil && conn != nil {
			conn.Close()
			conn = nil
		}
		return n, ok && err == nil
	}
}

// cpu is what the scheduler has accounted to a process, its threads and its descendants, in seconds.
func cpu(pid int) float64 {
	if pid == 0 {
		return 0
	}
	total := 0.0
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, task := range tasks {
		dir := fmt.Sprintf("/proc/%d/task/%s/", pid, task.Name())
		text, _ := os.ReadFile(dir + "schedstat")
		if fields := strings.Fields(string(text)); len(fields) > 0 {
			ns, _ := strconv.ParseFloat(fields[0], 64)
			total += ns / 1e9
		}
		children, _ := os.ReadFile(dir + "children")
		for _, child := range strings.Fields(string(children)) {
			id, _ := strconv.Atoi(child)
			total += cpu(id)
		}
	}
	return total
}

func self() float64 {
	var usage syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}
