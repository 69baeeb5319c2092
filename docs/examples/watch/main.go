// Command watch prints every change of a probe's verdict. "muster config export DIR" writes the certificates it needs;
// start it with DIR and the address of the API: go run ./docs/examples/watch DIR 127.0.0.1:7700
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: watch DIR HOST:PORT")
	}
	file := func(name string) string { return filepath.Join(os.Args[1], name) }
	pair, err := tls.LoadX509KeyPair(file("cert.pem"), file("key.pem"))
	check(err)
	ca, err := os.ReadFile(file("ca.pem"))
	check(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	conn, err := grpc.NewClient(os.Args[2], grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: pool, MinVersion: tls.VersionTLS13,
	})))
	check(err)
	stream, err := musterv1.NewProbeServiceClient(conn).WatchProbes(context.Background(), &musterv1.WatchProbesRequest{})
	check(err)
	for {
		change, err := stream.Recv()
		check(err)
		if p := change.GetProbe(); p != nil { // none with SYNCED, which ends the first round
			fmt.Println(change.GetType(), p.GetPod().GetName(), p.GetContainer(), p.GetKind(), p.GetVerdict())
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
