// Pace loads a server at a rate of its own choosing and tells how long answers took from when requests were due.
//
// A load generator that waits for an answer before it sends the next request measures least when the server is slowest
// ("coordinated omission"). This one is an open loop: request number n is due n/rate seconds after the start, whatever
// happened to those before it, and its latency counts from then, time spent waiting for a free connection included.
//
// With -websocket or -grpc it is a closed loop of messages instead: each connection or stream sends one, waits for its
// echo, and sends again; -rate is then ignored. With -bulk each connection moves large bodies. The result is one JSON
// object on stdout; times are seconds.
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

type result struct {
	Requests int            `json:"requests"`
	Errors   int            `json:"errors"`
	Seconds  float64        `json:"seconds"`
	Late     int            `json:"late"`     // were due and never sent: no connection came free until the end
	Failures map[string]int `json:"failures"` // errors by status, or by what broke the connection
	P50      float64        `json:"p50"`
	P90      float64        `json:"p90"`
	P95      float64        `json:"p95"`
	P99      float64        `json:"p99"`
	P999     float64        `json:"p999"`
	Max      float64        `json:"max"`
}

type lines []string

func (l *lines) String() string         { return strings.Join(*l, "; ") }
func (l *lines) Set(value string) error { *l = append(*l, value); return nil }

func main() {
	address := flag.String("address", "127.0.0.1:8080", "address of the server; several, by commas, take turns")
	host := flag.String("host", "localhost", "Host header")
	path := flag.String("path", "/", "path")
	connections := flag.Int("connections", 64, "connections kept open")
	rate := flag.String("rate", "1000", "requests per second, all connections together; several, by commas, follow one another")
	seconds := flag.Float64("seconds", 5, "how long, at each rate")
	targets := flag.String("targets", "", "file of lines `HOST PATH` to ask for in turn, instead of -host and -path")
	warm := flag.Float64("warm", 0, "seconds at the start that are not counted")
	patience := flag.Float64("patience", 10, "seconds after the end that answers may still take")
	websocket := flag.Bool("websocket", false, "send messages over WebSockets, as fast as echoes come")
	grpc := flag.Int("grpc", 0, "keep so many gRPC streams on each connection and echo messages over them")
	size := flag.Int("size", 64, "bytes of a message, with -websocket and -grpc")
	large := flag.Bool("bulk", false, "large bodies over each connection")
	times := flag.Int("times", 1, "bodies one after another, with -bulk")
	upload := flag.Int64("upload", 0, "bytes to send, with -bulk; 0 is a GET of -path")
	var extra lines
	flag.Var(&extra, "header", "further header line, may be repeated")
	flag.Parse()
	runtime.GOMAXPROCS(2) // one may be asleep in the clock; both share whatever processor we are kept on

	rates, err := numbers(*rate)
	if err != nil {
		log.Fatal(err)
	}
	total := *seconds*float64(len(rates)) + *warm
	addresses := strings.Split(*address, ",")
	opened := make([]net.Conn, *connections)
	for at := range opened {
		connection, err := net.Dial("tcp", addresses[at%len(addresses)])
		if err != nil {
			log.Fatal(err)
		}
		connection.SetDeadline(time.Now().Add(time.Duration((total + *patience) * float64(time.Second))))
		opened[at] = connection
	}
	further := ""
	var fields [][2]string
	for _, line := range extra {
		further += line + "\r\n"
		name, value, _ := strings.Cut(line, ":")
		fields = append(fields, [2]string{strings.ToLower(name), strings.TrimSpace(value)})
	}
	common := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\n%s", *path, *host, further)
	var told result
	switch {
	case *websocket:
		told = converse(opened, common, *size, *seconds, *warm)
	case *grpc > 0:
		told = streams(opened, *host, *path, fields, *grpc, *size, *seconds)
	case *large:
		told = bulk(opened, *host, *path, further, *upload, *times)
	default:
		requests := [][]byte{[]byte(common + "\r\n")}
		if *targets != "" {
			if requests, err = read(*targets, further); err != nil {
				log.Fatal(err)
			}
		}
		told = pace(opened, requests, rates, *seconds, *warm, *patience)
	}
	json.NewEncoder(os.Stdout).Encode(told)
}

type tally struct {
	mutex    sync.Mutex
	took     []float64
	errors   int
	failures map[string]int
}

func (t *tally) fail(status int, err error) {
	name := strconv.Itoa(status)
	var broken *net.OpError
	if errors.As(err, &broken) {
		name = broken.Op + ": " + broken.Err.Error()
	} else if err != nil {
		name = err.Error()
	}
	t.mutex.Lock()
	if t.failures == nil {
		t.failures = map[string]int{}
	}
	t.failures[name]++
	t.errors++
	t.mutex.Unlock()
}

func (t *tally) add(took []float64, errors int) {
	t.mutex.Lock()
	t.took = append(t.took, took...)
	t.errors += errors
	t.mutex.Unlock()
}

func (t *tally) result(seconds float64) result {
	slices.Sort(t.took)
	return result{
		Requests: len(t.took), Errors: t.errors, Failures: t.failures, Seconds: seconds,
		P50: rank(t.took, 50), P90: rank(t.took, 90), P95: rank(t.took, 95), P99: rank(t.took, 99), P999: rank(t.took, 99.9),
		Max: rank(t.took, 100),
	}
}

// Rank is the smallest value that a share of all do not exceed; values are sorted.
func rank(values []float64, percent float64) float64 {
	if len(values) == 0 {
		return 0
	}
	return values[max(0, int(math.Ceil(float64(len(values))*percent/100))-1)]
}

// Numbers are the rates of the stages.
func numbers(text string) ([]float64, error) {
	var all []float64
	for _, word := range strings.Split(text, ",") {
		number, err := strconv.ParseFloat(word, 64)
		if err != nil || number <= 0 {
			return nil, fmt.Errorf("-rate %s: not a number above 0", text)
		}
		all = append(all, number)
	}
	return all, nil
}

// Read makes a request of each line `HOST PATH` of a file.
func read(path, further string) ([][]byte, error) {
	text, err := os.ReadFile(path)
	var all [][]byte
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		host, path, _ := strings.Cut(line, " ")
		all = append(all, fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", path, host, further))
	}
	return all, err
}

// Schedule is when each request is due, after the start: `warm` seconds at the first rate, then the stages.
func schedule(rates []float64, seconds, warm float64) []time.Duration {
	var due []time.Duration
	at := 0.0
	for number, rate := range rates {
		length := seconds
		if number == 0 {
			length += warm
		}
		for count := range int(rate * length) {
			due = append(due, time.Duration((at+float64(count)/rate)*float64(time.Second)))
		}
		at += length
	}
	return due
}

type turn struct {
	at      time.Time
	request []byte
}

func pace(opened []net.Conn, requests [][]byte, rates []float64, seconds, warm, patience float64) result {
	plan := schedule(rates, seconds, warm)
	due := make(chan turn, len(plan)) // all of them fit: the clock never waits for us
	var all tally
	var working sync.WaitGroup
	begun := time.Now().Add(10 * time.Millisecond)
	counted := begun.Add(time.Duration(warm * float64(time.Second)))
	for _, connection := range opened {
		working.Add(1)
		go func() {
			defer working.Done()
			reader := bufio.NewReaderSize(connection, 4096)
			var took []float64
			for next := range due {
				_, err := connection.Write(next.request)
				var status int
				if err == nil {
					status, err = skipAnswer(reader)
				}
				if !next.at.Before(counted) {
					if err != nil || status >= 400 {
						all.fail(status, err)
					} else {
						took = append(took, time.Since(next.at).Seconds())
					}
				}
				if err != nil {
					break // the others go on
				}
			}
			all.add(took, 0)
		}()
	}
	for number := 0; number < len(plan); {
		now := time.Since(begun)
		for ; number < len(plan) && plan[number] <= now; number++ {
			due <- turn{begun.Add(plan[number]), requests[number%len(requests)]}
		}
		if number < len(plan) {
			sleep(time.Until(begun.Add(plan[number])))
		}
	}
	// what is queued now was due and found no connection free
	for until := time.Now().Add(time.Duration(patience * float64(time.Second))); len(due) > 0 && time.Now().Before(until); {
		time.Sleep(time.Millisecond)
	}
	late := 0
	for drained := false; !drained; {
		select {
		case <-due:
			late++
		default:
			drained = true
		}
	}
	close(due)
	working.Wait()
	told := all.result(seconds * float64(len(rates)))
	told.Late = late
	return told
}

// Sleep is time.Sleep without its grain: the runtime's poller counts in milliseconds, in which many requests are due.
func sleep(duration time.Duration) {
	if duration > 0 {
		wait := syscall.NsecToTimespec(duration.Nanoseconds())
		syscall.Nanosleep(&wait, nil)
	}
}

// SkipAnswer reads one answer with a Content-Length or chunks and returns its status.
func skipAnswer(reader *bufio.Reader) (int, error) {
	line, err := reader.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < 12 {
		return 0, io.ErrUnexpectedEOF
	}
	status, err := strconv.Atoi(string(line[9:12]))
	length, chunked := 0, false
	for err == nil {
		if line, err = reader.ReadSlice('\n'); err != nil || len(line) <= 2 {
			break
		}
		switch line[0] | 0x20 {
		case 'c', 't':
			name, value, _ := bytes.Cut(line, []byte(":"))
			if bytes.EqualFold(name, []byte("Content-Length")) {
				length, err = strconv.Atoi(string(bytes.TrimSpace(value)))
			}
			chunked = chunked || bytes.EqualFold(name, []byte("Transfer-Encoding"))
		}
	}
	for chunked && err == nil {
		if line, err = reader.ReadSlice('\n'); err != nil {
			break
		}
		var size int64
		if size, err = strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 64); err == nil {
			_, err = reader.Discard(int(size) + 2)
			chunked = size > 0
		}
	}
	if err == nil {
		_, err = reader.Discard(length)
	}
	return status, err
}

func converse(opened []net.Conn, common string, size int, seconds, warm float64) result {
	handshake := []byte(common + "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	message := binaryMessage(size)
	var all tally
	var working sync.WaitGroup
	begun := time.Now()
	counted := begun.Add(time.Duration(warm * float64(time.Second)))
	until := counted.Add(time.Duration(seconds * float64(time.Second)))
	for _, connection := range opened {
		working.Add(1)
		go func() {
			defer working.Done()
			var took []float64
			failed := 0
			reader := bufio.NewReaderSize(connection, 1<<16)
			_, err := connection.Write(handshake)
			var status int
			if err == nil {
				status, err = skipAnswer(reader)
			}
			if err != nil || status != 101 {
				all.add(nil, 1)
				return
			}
			for sent := time.Now(); sent.Before(until); sent = time.Now() {
				if _, err = connection.Write(message); err == nil {
					_, err = reader.Discard(len(message) - 4) // an echo is not masked
				}
				if err != nil {
					failed++
					break
				}
				if !sent.Before(counted) {
					took = append(took, time.Since(sent).Seconds())
				}
			}
			all.add(took, failed)
		}()
	}
	working.Wait()
	return all.result(seconds)
}

// BinaryMessage is one masked binary frame.
func binaryMessage(size int) []byte {
	frame := []byte{0x82}
	if size < 126 {
		frame = append(frame, 0x80|byte(size))
	} else {
		frame = append(frame, 0x80|126)
		frame = binary.BigEndian.AppendUint16(frame, uint16(size))
	}
	frame = append(frame, 1, 2, 3, 4)
	for at := range size {
		frame = append(frame, byte(at)^byte(at&3+1))
	}
	return frame
}
