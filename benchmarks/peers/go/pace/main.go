// Pace loads a server at a rate of its own choosing and tells how long answers took from when requests were due.
//
// A load generator that waits for an answer before it sends the next request measures least when the server is slowest
// ("coordinated omission"). This one is an open loop: request number n is due n/rate seconds after the start, whatever
// happened to those before it, and its latency counts from then, time spent waiting for a free connection included.
//
// With -websocket or -grpc it is a closed loop of messages instead: each connection or stream sends one, waits for its
// echo, and sends again; -rate is then ignored. With -bulk each connection moves one large body. The result is one JSON
// object on stdout; times are seconds.
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
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
	Requests int     `json:"requests"`
	Errors   int     `json:"errors"`
	Seconds  float64 `json:"seconds"`
	Late     int     `json:"late"` // were due and never sent: no connection came free until the end
	P50      float64 `json:"p50"`
	P90      float64 `json:"p90"`
	P99      float64 `json:"p99"`
	P999     float64 `json:"p999"`
	Max      float64 `json:"max"`
}

type lines []string

func (l *lines) String() string         { return strings.Join(*l, "; ") }
func (l *lines) Set(value string) error { *l = append(*l, value); return nil }

func main() {
	address := flag.String("address", "127.0.0.1:8080", "address of the server")
	host := flag.String("host", "localhost", "Host header")
	path := flag.String("path", "/", "path")
	connections := flag.Int("connections", 64, "connections kept open")
	rate := flag.Float64("rate", 1000, "requests per second, all connections together")
	seconds := flag.Float64("seconds", 5, "how long")
	warm := flag.Float64("warm", 0, "seconds at the start that are not counted")
	websocket := flag.Bool("websocket", false, "send messages over WebSockets, as fast as echoes come")
	grpc := flag.Int("grpc", 0, "keep so many gRPC streams on each connection and echo messages over them")
	size := flag.Int("size", 64, "bytes of a message, with -websocket and -grpc")
	large := flag.Bool("bulk", false, "one large body over each connection")
	upload := flag.Int64("upload", 0, "bytes to send, with -bulk; 0 is a GET of -path")
	var extra lines
	flag.Var(&extra, "header", "further header line, may be repeated")
	flag.Parse()
	runtime.GOMAXPROCS(2) // one may be asleep in the clock; both share whatever processor we are kept on

	opened := make([]net.Conn, *connections)
	for at := range opened {
		connection, err := net.Dial("tcp", *address)
		if err != nil {
			log.Fatal(err)
		}
		connection.SetDeadline(time.Now().Add(time.Duration((*seconds + *warm + 10) * float64(time.Second))))
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
		told = bulk(opened, *host, *path, further, *upload)
	default:
		told = pace(opened, []byte(common+"\r\n"), *rate, *seconds, *warm)
	}
	json.NewEncoder(os.Stdout).Encode(told)
}

type tally struct {
	mutex  sync.Mutex
	took   []float64
	errors int
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
		Requests: len(t.took), Errors: t.errors, Seconds: seconds,
		P50: rank(t.took, 50), P90: rank(t.took, 90), P99: rank(t.took, 99), P999: rank(t.took, 99.9),
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

func pace(opened []net.Conn, request []byte, rate, seconds, warm float64) result {
	due := make(chan time.Time, int(rate*(seconds+warm))+1) // all of them fit: the clock never waits for us
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
			errors := 0
			for at := range due {
				_, err := connection.Write(request)
				var status int
				if err == nil {
					status, err = skipAnswer(reader)
				}
				if !at.Before(counted) {
					if err != nil || status >= 400 {
						errors++
					} else {
						took = append(took, time.Since(at).Seconds())
					}
				}
				if err != nil {
					break // the others go on
				}
			}
			all.add(took, errors)
		}()
	}
	gap := float64(time.Second) / rate
	total := int(rate * (seconds + warm))
	for number := 0; number < total; {
		now := time.Since(begun)
		for ; number < total && float64(number)*gap <= float64(now); number++ {
			due <- begun.Add(time.Duration(float64(number) * gap))
		}
		sleep(time.Until(begun.Add(time.Duration(float64(number) * gap))))
	}
	// what is queued now was due and found no connection: each gets a second more, then counts as late
	for patience := time.Now().Add(time.Second); len(due) > 0 && time.Now().Before(patience); {
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
	told := all.result(seconds)
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
			errors := 0
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
					errors++
					break
				}
				if !sent.Before(counted) {
					took = append(took, time.Since(sent).Seconds())
				}
			}
			all.add(took, errors)
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
