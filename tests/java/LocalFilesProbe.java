import java.io.FileNotFoundException;
import java.net.URI;
import java.util.EnumSet;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.CreateFlag;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FileContext;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.Options;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.permission.FsPermission;

/** Does in the folder that is its second argument what Spark does with a checkpoint, by the file system that is its first. */
class LocalFilesProbe {
    public static void main(String[] arguments) throws Exception {
        Configuration configuration = new Configuration();
        configuration.set("fs.AbstractFileSystem.file.impl", arguments[0]);
        FileContext files = FileContext.getFileContext(new URI("file:///"), configuration);
        System.out.println(files.getDefaultFileSystem().getClass().getName());
        Path folder = new Path(arguments[1], "state/0/1");
        files.mkdir(folder, FsPermission.getDirDefault(), true);
        for (String text : new String[] {"first", "second"}) {
            Path aside = new Path(folder, "." + text + ".tmp");
            try (FSDataOutputStream out = files.create(aside, EnumSet.of(CreateFlag.CREATE, CreateFlag.OVERWRITE))) {
                out.writeUTF(text);
            }
            files.rename(aside, new Path(folder, "1.delta"), Options.Rename.OVERWRITE);
        }
        try (FSDataInputStream in = files.open(new Path(folder, "1.delta"))) {
            System.out.println(in.readUTF());
        }
        Path link = new Path(folder, "link");
        java.nio.file.Files.createSymbolicLink(java.nio.file.Path.of(link.toUri().getPath()), java.nio.file.Path.of("1.delta"));
        FileStatus status = files.getFileStatus(link);
        System.out.println(status.getLen() + " " + status.isFile());
        files.create(new Path(folder, "kept"), EnumSet.of(CreateFlag.CREATE)).close();
        try {
            files.rename(new Path(folder, "kept"), new Path(folder, "1.delta"));
        } catch (Exception error) {
            System.out.println(error.getClass().getName());
        }
        try {
            files.getFileLinkStatus(new Path(folder, "none"));
        } catch (FileNotFoundException error) {
            System.out.println("not there");
        }
        files.setPermission(new Path(folder, "kept"), new FsPermission((short) 0600));
        files.delete(new Path(folder, "link"), false);
    }
}
